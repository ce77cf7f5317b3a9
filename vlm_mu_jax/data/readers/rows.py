"""What the readers share: loading a file's rows, collecting bad rows, finding images, keeping ids distinct."""

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from vlm_mu_jax.data.readers import files
from vlm_mu_jax.data.readers.embedded import Embedded, from_base64, from_parquet, unpack
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

ON_BAD = ("stop", "skip")
Made = TypeVar("Made")
_LONGEST_PATH = 1024  # a longer text is no path; in the place of an image it may be the image itself, in base64
_SHOWN = 10  # bad rows spelled out in the message; all of them are in `BadRows.problems`


class BadRows(InputError):
    """Rows of a file that break its format. `problems` holds (row number from 1, what is wrong) for every one."""

    def __init__(self, path: Path, total: int, problems: list[tuple[int, str]]):
        self.path, self.total, self.problems = path, total, problems
        shown = "; ".join(f"row {row}: {what}" for row, what in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        verb = "is" if len(problems) == 1 else "are"
        super().__init__(f"{path}: {len(problems)} of {total} rows {verb} bad: {shown}{more}; correct or remove them")


def load(path: str | Path) -> tuple[Collection, str]:
    """The rows of a file of any kind that `files` reads, and the file's sha256. A JSON file must hold a list.

    Raises InputError when the file is missing, broken, empty or no list of records.
    """
    return files.load(path, listed=True)


def reason(problem: str) -> str:
    """What is wrong without names and numbers, so that rows with the same fault are counted together."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", problem))


class RowReader:
    """Turns the rows of one file into records, one function call per row, and reports all bad rows together.

    Attributes:
      number: the row that is being read, from 1.
      notes: what was done to rows that were read, with the number of rows.
    """

    def __init__(self, path: Path, check_images: bool = True, root: Path | None = None, on_bad: str = "stop") -> None:
        """
        Args:
          check_images: whether a missing image file makes a row bad, and images inside the file are unpacked.
          root: the folder that image paths are relative to; the file's own one by default.
          on_bad: "stop" raises BadRows at the end of the file, "skip" leaves bad rows out and counts them.
        """
        if on_bad not in ON_BAD:
            raise InputError(f"on_bad={on_bad!r} is unknown; use one of {', '.join(ON_BAD)}")
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self.check_images, self.on_bad = check_images, on_bad
        self.number = 0
        self.notes: Counter[str] = Counter()
        self._of_row: set[str] = set()
        self._seen: Counter[str] = Counter()

    def note(self, what: str) -> None:
        """Counts something that was done to the row, once."""
        self._of_row.add(what)

    def read(self, rows: Collection, sha256: str, to_records: Callable[[dict], Iterable[Record]]) -> Records:
        """The records of all rows. `to_records` gives those of one row, or raises InputError saying what is wrong.

        Raises BadRows listing every bad row, unless they are skipped and some rows are good.
        """
        records, problems = [], []
        for self.number, row in enumerate(rows, start=1):
            try:
                records += self.one(row, lambda row: list(to_records(row)))
            except InputError as error:
                problems.append((self.number, problem_line(row, error)))
        if problems and (self.on_bad == "stop" or not records):
            raise BadRows(self.path, len(rows), problems)
        found = tuple(self.distinct(records))
        return Records(found, self.root, self.path, sha256, dict(self.notes), tuple(problems))

    def one(self, row: Any, build: Callable[[dict], Made]) -> Made:
        """What `build` makes of a row; what was done to a row that was read is counted."""
        self._of_row = set()
        if not isinstance(row, dict):
            raise InputError(f"expected an object, found {type(row).__name__}")
        made = build(row)
        self.notes.update(self._of_row)
        return made

    def distinct(self, records: Iterable[Record]) -> Iterable[Record]:
        """Records with `@k` added to the k-th repetition of an id: upstream files repeat some, and no row is lost."""
        for record in records:
            k = self._seen[record.id]
            self._seen[record.id] += 1
            yield dataclasses.replace(record, id=f"{record.id}@{k}") if k else record

    def image(self, value, folders: tuple[str, ...] = ("",)) -> str:
        """The image path relative to the data root; `folders` are tried in turn. InputError when it is no file."""
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise InputError("image must be a relative path")
        if len(value) >= _LONGEST_PATH:
            raise InputError(f"the path of the image has {len(value)} characters, more than {_LONGEST_PATH - 1}")
        if os.path.isabs(value) or os.path.normpath(value).split(os.sep)[0] == os.pardir:
            raise InputError(f"image path {value!r} leaves the data folder")
        paths = [os.path.normpath(os.path.join(folder, value)) for folder in folders]
        if len(paths) == 1 and not self.check_images:
            return paths[0]
        for path in paths:
            if os.path.isfile(self.root / path):  # False for a name that no file system takes; Path.is_file raises
                return path
        if not self.check_images:
            return paths[0]
        raise InputError(f"missing image file {value!r}")

    def any_image(self, value: Any) -> str:
        """As `image`, for a path, a data: address, base64 text, or bytes as a Parquet file holds them.

        Images that the file itself holds are unpacked beside it, named by their content.
        """
        if isinstance(value, str) and value.startswith(("http://", "https://")):
            raise InputError("the image is a web address; download it and give its path")
        if isinstance(value, str) and not value.startswith("data:") and len(value) < _LONGEST_PATH:
            return self.image(value.removeprefix("file://"))
        if isinstance(value, dict) and not value.get("bytes") and isinstance(value.get("path"), str):
            return self.image(value["path"])
        if isinstance(value, str):
            image = from_base64("image", value.partition("base64,")[2] if value.startswith("data:") else value)
        else:
            image = from_parquet("image", value)
        name = hashlib.sha256(image.content).hexdigest()[:16]
        return unpack(Embedded(name, image.content), self.path, self.root) if self.check_images else name


def field(row: dict, name: str, kind: type = str):
    """A required field of a row. Raises InputError when it is missing or of another type."""
    if name not in row:
        raise InputError(f"field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind):
        raise InputError(f"field {name!r} must be {kind.__name__}, not {type(value).__name__}")
    return value


def problem_line(row: Any, error: InputError) -> str:
    """What is wrong with a row, behind `(id ...) ` where it has one."""
    name = row.get("id") if isinstance(row, dict) else None
    return f"(id {str(name)[:60]!r}) {error}" if isinstance(name, str | int) else str(error)
