"""Readers: data files of every known shape, each turned into `Records` or refused with its bad rows listed."""

import difflib
import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from vlm_mu_jax.data.readers import catalogue, hub, long_files, shapes, vlguard
from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.readers.files import LINE
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.hashes import sha256

_LOOKED_AT = 1_000  # rows that decide what a file is
_SPA_VL = {"question", "chosen", "rejected", "image"}  # columns of SPA-VL's Parquet files


def read(
    path: str | Path,
    subset: str | None = None,
    check_images: bool = True,
    *,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad: str = "stop",
    root: str | Path | None = None,
) -> Records:
    """The records of a data file, whatever shape its rows have: see `shapes` for those that are known.

    The file may be a data set of the Hugging Face hub, `hub:ORG/NAME[:SPLIT]`; see `hub`.

    The file may be JSON, JSON lines, CSV, TSV, plain text (a question a line) or Parquet. VLGuard's JSON and SPA-VL's
    Parquet are read as published.

        readers.read("train.jsonl", on_bad="skip")
        readers.read("questions.csv", kind="unsafe", columns={"question": "Goal"})

    Args:
      subset: one of VLGuard's (unsafes, safe_safes, safe_unsafes); an error for other files.
      check_images: whether a missing image file makes a row bad, and images inside the file are unpacked beside it.
      kind: of rows that name none: "unsafe", "safe" or "general" (the default).
      columns: our name of a column -> the file's.
      on_bad: "stop" raises at bad rows, "skip" leaves them out; they then stand in `Records.skipped`.
      root: the folder that image paths are relative to; the file's own by default.

    Raises InputError (`rows.BadRows` with every bad row) when the file is not clean.
    """
    path = hub.local(path)
    content, sha256 = _load(path, columns)
    if all(isinstance(row, str) for row in content):  # a JSON list of questions
        content = [{LINE: row} for row in content]
    reader = _rows.RowReader(path, check_images, None if root is None else Path(root), on_bad)
    if columns:
        content = _with_columns(path, list(content), columns)
    main = main_shape(content)
    if main is None:
        raise InputError(f"{path}: its rows are of no known shape ({', '.join(shapes.SHAPES)}); see docs/your_data.md")
    if main == "vlguard":
        return vlguard.from_rows(reader, content, sha256, subset)
    if subset is not None:
        raise InputError(f"{path}: has no subset {subset!r}; only VLGuard files have subsets")
    if path.suffix.lower() == ".parquet" and kind is None and _SPA_VL <= next(iter(content)).keys():
        return catalogue.get("spa_vl_train").read([path], reader.root, "spa_vl", check_images)
    if isinstance(content, long_files.FileRows):
        return long_files.read(reader, content, sha256, lambda row, one: shapes.record(row, one, kind))
    return reader.read(content, sha256, lambda row: [shapes.record(row, reader, kind)])


def _load(path: Path, columns: Mapping[str, str] | None) -> tuple[Collection, str]:
    """The rows of a file and its sha256; those of a long JSON file one by one, where they are of one record each."""
    if not columns and path.suffix.lower() in (".json", ".jsonl") and path.is_file():
        if path.stat().st_size >= long_files.LONG:
            rows = long_files.FileRows(path)
            if main_shape(rows) not in (None, "vlguard"):
                return rows, sha256(path)
    return _rows.load(path)


def main_shape(content: Collection) -> str | None:
    """The shape that most rows have, or None when none has one. Looks at the first rows of a long file."""
    votes = Counter(shape for row in itertools.islice(content, _LOOKED_AT) if (shape := shapes.shape_of(row)))
    return votes.most_common(1)[0][0] if votes else None


def _with_columns(path: Path, content: list, columns: Mapping[str, str]) -> list:
    """The rows with the file's columns under our names. Raises InputError for a column that no row has."""
    there = {name: None for row in itertools.islice(content, _LOOKED_AT) if isinstance(row, dict) for name in row}
    for theirs in columns.values():
        if theirs not in there:
            near = difflib.get_close_matches(theirs, there, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(there)[:8])}"
            raise InputError(f"{path}: has no column {theirs!r}; {hint}")
    return [_renamed(row, columns) for row in content]


def _renamed(row: object, columns: Mapping[str, str]) -> object:
    """The row with the file's columns under our names."""
    if not isinstance(row, dict):
        return row
    theirs = {name: ours for ours, name in columns.items()}
    return {theirs.get(name, name): value for name, value in row.items()}
