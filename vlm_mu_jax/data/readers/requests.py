"""Reader for plain request lists: rows of `{"id", "question", "answer", "kind": "unsafe" | "safe" | "general"}`.

A row may name an `image`. The miniature's `text_harm.json` has this form: requests that are asked with text only, with
a blank image and with their own image, to measure the alignment gap.
"""

from collections.abc import Iterator
from pathlib import Path

from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.records import Record, Records


def read(path: str | Path, check_images: bool = True) -> Records:
    """All records of the file. Raises BadRows listing bad rows."""
    content, sha256 = _rows.load(path)
    return from_rows(path, content, sha256, check_images)


def from_rows(path: str | Path, content: list, sha256: str, check_images: bool = True) -> Records:
    """As `read`, for rows that are already loaded."""
    reader = _rows.RowReader(Path(path), check_images)
    return reader.read(content, sha256, lambda row: _records(row, reader))


def _records(row: dict, reader: _rows.RowReader) -> Iterator[Record]:
    image = None if row.get("image") is None else reader.image(row["image"])
    fields = {name: _rows.field(row, name) for name in ("id", "question", "answer", "kind")}
    yield Record(image=image, category=row.get("category", ""), source="requests", **fields)
