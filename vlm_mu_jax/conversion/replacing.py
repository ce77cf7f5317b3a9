"""Which folder a conversion may replace: one that an earlier conversion wrote, never a trained model unasked."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import check_replaceable
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.storage.model_folder import SETTINGS

MARKER = "vlm_mu_jax_export.json"  # in every folder that an export wrote: what it was made from


def check_model_folder(out: str | Path, sources: Iterable[Path], overwrite: bool) -> str | None:
    """Checks that a conversion may write a model folder to `out`.

    Args:
      sources: the folders that are read.
      overwrite: replace whatever is there.

    Returns:
      What is replaced, in words; None if there is nothing.

    Raises:
      InputError: `out` holds a trained model or something else that no conversion wrote, or a source lies in it.
    """
    return _check(out, sources, SETTINGS, "provenance.json", None, overwrite)


def check_export(
    out: str | Path, sources: Iterable[Path], overwrite: bool, provenance: Mapping[str, Any] | None = None
) -> str | None:
    """As `check_model_folder`, for an export. An export of the same trained model, by its `provenance`, is replaced."""
    return _check(out, sources, MARKER, MARKER, provenance, overwrite)


def _check(
    out: str | Path,
    sources: Iterable[Path],
    marker: str,
    record: str,
    provenance: Mapping[str, Any] | None,
    overwrite: bool,
) -> str | None:
    found = resolved(out)
    for source in map(resolved, sources):
        if found == source or found in source.parents:
            raise InputError(f"{out}: holds the source {source}; give another folder to write")
    try:
        check_replaceable(out, marker, overwrite)
    except InputError as error:
        raise InputError(f"{error}".replace(" or remove it", ", remove it, or use --overwrite")) from None
    if not found.is_dir() or not any(found.iterdir()):
        return None
    about = _read(found / record)
    trained = about if marker == SETTINGS else about.get("provenance")
    trained = trained if isinstance(trained, dict) else {}
    if not overwrite and "source" not in about and "kind" not in trained:
        raise InputError(f"{out}: another command wrote it; give another folder, or use --overwrite")
    if not overwrite and "kind" in trained and trained != provenance:
        raise InputError(f"{out}: holds a trained model ({trained['kind']}); give another folder, or use --overwrite")
    return f"what came from {about['source']}" if "source" in about else "what was there"


def _read(record: Path) -> dict[str, Any]:
    try:
        return read_json(record)
    except InputError:
        return {}
