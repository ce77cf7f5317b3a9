"""Anchor pairs, the texts that safety directions are taken from.

A JSON list of pairs, [{"harmful": text, "harmless": text}, ...]. The two texts of a pair should be alike in everything
but harm (the same opening, the same verb): then their difference is harm and nothing else.
"""

import dataclasses
from pathlib import Path

from vlm_mu_jax.data.readers import rows
from vlm_mu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Paired texts; `sha256` is of the file's bytes and goes into the guard's artifact."""

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    sha256: str


def load_anchors(path: str | Path) -> Anchors:
    """Reads anchor pairs. Raises InputError with every bad row, or when there are fewer than two pairs."""
    content, sha256 = rows.load(path)
    problems = [(number, what) for number, row in enumerate(content, start=1) if (what := _problem(row))]
    if problems:
        raise rows.BadRows(Path(path), len(content), problems)
    if len(content) < 2:
        raise InputError(f"{path}: holds one anchor pair; at least 2 are needed, about 100 are usual")
    return Anchors(tuple(row["harmful"] for row in content), tuple(row["harmless"] for row in content), sha256)


def _problem(row) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object with harmful and harmless, found {type(row).__name__}"
    for name in ("harmful", "harmless"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            return f"field {name!r} must be a non-empty text"
    return None
