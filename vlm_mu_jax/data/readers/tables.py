"""One reader for all sets whose rows are one question each: a `Table` says which column is what.

Sets of this kind differ by column names, by how an image is found, and by what is asked; those are the fields here.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.readers import files
from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.readers.embedded import Embedded, unpack
from vlm_mu_jax.data.readers.files import Row
from vlm_mu_jax.data.records import Item, Records
from vlm_mu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of a file by their upstream names; a function takes the row instead.

    question, answer, id: a column. id "", or a function that gives "", numbers the rows from 0.
    image: a column, or a function that gives a path, an `Embedded` image or None; "" = text only.
    folders: where image paths start, under the set's folder, tried in turn.
    ask: the prompt, {} being the question.
    details: what the set's scorer needs (see `Item`).
    under: key of the rows in a JSON object.
    heavy: columns with images inside the file, not read where images are not wanted.
    flaws: bad rows of upstream's own file by their number from 1, and what is wrong with them. They alone are left out,
    and stand in `Records.skipped`.
    """

    question: str | Callable[[Row], str]
    id: str | Callable[[Row], str] = ""
    answer: str | Callable[[Row], str] = ""
    image: str | Callable[[Row], str | Embedded | None] = ""
    folders: tuple[str, ...] = ("",)
    kind: str | Callable[[Row], str] = "unsafe"
    category: tuple[str, ...] = ()
    ask: str = "{}"
    details: Callable[[Row], dict] = lambda row: {}
    under: str = ""
    heavy: tuple[str, ...] = ()
    flaws: Mapping[int, str] = dataclasses.field(default_factory=dict, hash=False)


def read(
    table: Table, path: str | Path, root: str | Path, source: str, check_images: bool = True, prefix: str = ""
) -> Records:
    """The records of one file.

    Args:
      root: the set's folder, which image paths are relative to.
      source: the set's name.
      check_images: whether a missing image file is an error, and images inside the file are unpacked beside it.
      prefix: stands before every id, where ids are only distinct within a file.

    Raises InputError when the file is missing or broken, BadRows (with every bad row) when rows are.
    """
    content, sha256 = files.load(path, table.under, () if check_images else table.heavy)
    return from_rows(table, content, sha256, path, root, source, check_images, prefix)


def from_rows(
    table: Table,
    content: Collection[Row],
    sha256: str,
    path: str | Path,
    root: str | Path,
    source: str,
    check_images: bool = True,
    prefix: str = "",
) -> Records:
    """As `read`, for rows that are already loaded."""
    reader = _rows.RowReader(Path(path), check_images, Path(root), "skip" if table.flaws else "stop")
    numbers = iter(range(len(content)))

    def item(row: Row) -> list[Item]:
        number = next(numbers)
        name = _text(row, table.id) if table.id else str(number)
        if callable(table.id):
            name = name or str(number)
        return [
            Item(
                id=prefix + name,
                image=_image(table, row, reader),
                question=table.ask.replace("{}", _text(row, table.question)),
                answer=_text(row, table.answer) if table.answer else "",
                kind=table.kind(row) if callable(table.kind) else table.kind,
                category="/".join(_text(row, name) for name in table.category if row.get(name)),
                source=source,
                details=table.details(row),
            )
        ]

    found = reader.read(content, sha256, item)
    unknown = [(number, what) for number, what in found.skipped if table.flaws.get(number) != what]
    if unknown:
        raise _rows.BadRows(reader.path, len(content), unknown)
    return found


def column(row: Row, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """A required column of a row. Raises InputError when it is missing or of another type."""
    if name not in row:
        raise InputError(f"column {name!r} is missing; the row has {', '.join(map(str, row))[:200]}")
    if not isinstance(row[name], kind) or isinstance(row[name], bool):
        raise InputError(f"column {name!r} holds a {type(row[name]).__name__}")
    return row[name]


def _text(row: Row, name: str | Callable[[Row], str]) -> str:
    return str(column(row, name, (str, int))) if isinstance(name, str) else name(row)


def _image(table: Table, row: Row, reader: _rows.RowReader) -> str | None:
    if not table.image or (table.heavy and not reader.check_images):
        return None
    image = column(row, table.image) if isinstance(table.image, str) else table.image(row)
    if isinstance(image, Embedded):
        return unpack(image, reader.path, reader.root)
    return None if image is None else reader.image(image, table.folders)
