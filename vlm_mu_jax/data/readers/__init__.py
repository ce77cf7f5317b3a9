"""Readers: one file per format, each turning a data file into `Records` or saying which rows are bad."""

from collections import Counter
from pathlib import Path

from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError

_SHAPES = ("instr-resp", "conversations", "question")  # the key that tells VLGuard, LLaVA and plain requests apart


def read(path: str | Path, subset: str | None = None, check_images: bool = True) -> Records:
    """Reads a data file in whichever known format it is: JSON of VLGuard, LLaVA or requests, or SPA-VL's Parquet.

    `subset` is one of VLGuard's (unsafes, safe_safes, safe_unsafes) and an error for other formats. Image paths are
    relative to the file's folder. Raises InputError (`rows.BadRows` with every bad row) when the file is not clean.
    """
    from vlm_mu_jax.data.readers import catalogue, llava, requests, vlguard

    path = Path(path)
    if path.suffix.lower() == ".parquet" and subset is None:
        return catalogue.get("spa_vl_train").read([path], path.parent, "spa_vl", check_images)
    content, sha256 = _rows.load(path)
    shape = _shape(Path(path), content)
    if shape == "instr-resp":
        return vlguard.from_rows(path, content, sha256, subset, check_images)
    if subset is not None:
        raise InputError(f"{path}: has no subset {subset!r}; only VLGuard files have subsets")
    reader = llava if shape == "conversations" else requests
    return reader.from_rows(path, content, sha256, check_images)


def _shape(path: Path, content: list) -> str:
    """The telling key that most rows have; a few damaged rows then still get the right reader's message."""
    votes = Counter(key for row in content if isinstance(row, dict) for key in _SHAPES if key in row)
    if not votes:
        raise InputError(
            f"{path}: is neither VLGuard (instr-resp), LLaVA (conversations) nor a request list (question)"
        )
    return votes.most_common(1)[0][0]
