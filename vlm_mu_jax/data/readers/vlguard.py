"""Reader for VLGuard's JSON (ys-zong/VLGuard `data/train.json`, `data/test.json`).

A row is `{"id", "image", "safe", "instr-resp": [...]}`, unsafe rows also name `harmful_category` and
`harmful_subcategory`. Every entry of `instr-resp` has `response` and exactly one of `instruction` (unsafe image),
`safe_instruction`, `unsafe_instruction` (safe image). A safe row may hold the safe pair alone.

Record ids: `ID` for an unsafe image, `ID#safe` and `ID#unsafe` for the two pairs of a safe one. The published train
file repeats one id: its second record gets `@1`.
"""

import os
from collections.abc import Collection
from pathlib import Path

from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

SUBSETS = ("unsafes", "safe_safes", "safe_unsafes")
_PAIRS = {  # key -> (subset, suffix of the record id, kind)
    "instruction": ("unsafes", "", "unsafe"),
    "safe_instruction": ("safe_safes", "#safe", "safe"),
    "unsafe_instruction": ("safe_unsafes", "#unsafe", "unsafe"),
}


def read(
    path: str | Path, subset: str | None = None, check_images: bool = True, root: str | Path | None = None
) -> Records:
    """All records of a VLGuard file, or one of its subsets as upstream defines them. BadRows lists bad rows.

    Args:
      root: the folder that image paths are relative to, None for the file's. Images may lie in both.
    """
    content, sha256 = _rows.load(path)
    reader = _rows.RowReader(Path(path), check_images, None if root is None else Path(root))
    return from_rows(reader, content, sha256, subset)


def from_rows(reader: _rows.RowReader, content: Collection, sha256: str, subset: str | None = None) -> Records:
    """As `read`, for rows that are already loaded."""
    if subset is not None and subset not in SUBSETS:
        raise InputError(f"VLGuard has no subset {subset!r}; choose from {', '.join(SUBSETS)}")
    # Upstream unpacks train.zip and test.zip beside the JSON; the one-word sets (test_share_1shot.json) share test.zip.
    stem = reader.path.stem
    beside = os.path.relpath(reader.path.parent, reader.root)
    places = ("",) if beside == os.curdir or beside.startswith(os.pardir) else ("", beside)
    names = ("", stem, stem.partition("_")[0])
    folders = tuple(dict.fromkeys(os.path.join(place, name) for place in places for name in names))
    # Every row is checked, whichever subset is wanted: a broken file should not pass because its bad half is unused.
    return reader.read(content, sha256, lambda row: _records(row, subset, reader, folders))


def _records(row: dict, subset: str | None, reader: _rows.RowReader, folders: tuple[str, ...]) -> list[Record]:
    """The row's records, or only the one that belongs to the subset."""
    name = _rows.field(row, "id")
    safe = _rows.field(row, "safe", bool)
    image = reader.image(_rows.field(row, "image"), folders)
    records = []
    for key, question, answer in _pairs(row, safe):
        owner, suffix, kind = _PAIRS[key]
        record = Record(
            f"{name}{suffix}", image, question, answer, kind, "" if safe else _category(row), f"vlguard/{owner}"
        )
        if subset in (None, owner):
            records.append(record)
    return records


def _category(row: dict) -> str:
    """`category/subcategory` of an unsafe row; the subcategory may be absent."""
    names = [_rows.field(row, "harmful_category")]
    if "harmful_subcategory" in row:
        names.append(_rows.field(row, "harmful_subcategory"))
    return "/".join(names)


def _pairs(row: dict, safe: bool) -> list[tuple[str, str, str]]:
    """(key, question, answer) of each entry of `instr-resp`; InputError unless they fit the row's `safe`."""
    pairs = []
    for entry in _rows.field(row, "instr-resp", list):
        if not isinstance(entry, dict):
            raise InputError("instr-resp must hold objects")
        keys = [key for key in entry if key != "response"]
        if len(keys) != 1 or keys[0] not in _PAIRS:
            raise InputError(
                f"an instr-resp entry must have one of {', '.join(_PAIRS)}, not {', '.join(map(str, keys)) or 'none'}"
            )
        pairs.append((keys[0], _rows.field(entry, keys[0]), _rows.field(entry, "response")))
    found = sorted(key for key, _, _ in pairs)
    allowed = (["safe_instruction"], ["safe_instruction", "unsafe_instruction"]) if safe else (["instruction"],)
    if found not in allowed:
        expected = "one safe_instruction and at most one unsafe_instruction" if safe else "exactly one instruction"
        raise InputError(
            f"a{' safe' if safe else 'n unsafe'} record must have {expected}, not {', '.join(found) or 'nothing'}"
        )
    return pairs
