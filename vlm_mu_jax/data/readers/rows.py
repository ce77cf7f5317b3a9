"""What the readers share: loading a JSON list, collecting bad rows, finding images, keeping ids distinct."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

_SHOWN = 10  # bad rows spelled out in the message; all of them are in `BadRows.problems`


class BadRows(InputError):
    """Rows of a file that break its format. `problems` holds (row number from 1, what is wrong) for every one."""

    def __init__(self, path: Path, total: int, problems: list[tuple[int, str]]):
        self.path, self.total, self.problems = path, total, problems
        shown = "; ".join(f"row {row}: {what}" for row, what in problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        verb = "is" if len(problems) == 1 else "are"
        super().__init__(f"{path}: {len(problems)} of {total} rows {verb} bad: {shown}{more}; correct or remove them")


def load(path: str | Path) -> tuple[list, str]:
    """The rows of a JSON list and the file's sha256. Raises InputError when the file is missing, broken or no list."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        rows = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8 JSON") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{path}: broken JSON at {where} ({error.msg}); is the file complete?") from None
    except RecursionError:
        raise InputError(f"{path}: JSON is nested too deeply; expected a list of records") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a JSON list of records, found a {type(rows).__name__}; check the file")
    if not rows:
        raise InputError(f"{path}: holds no records; check the file")
    return rows, hashlib.sha256(raw).hexdigest()


class RowReader:
    """Turns the rows of one file into records, one function call per row, and reports all bad rows together."""

    def __init__(self, path: Path, check_images: bool = True, root: Path | None = None):
        """`root` is the folder that image paths are relative to; the file's own one by default."""
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self.check_images = check_images
        self._seen: Counter[str] = Counter()

    def read(self, rows: Collection, sha256: str, to_records: Callable[[dict], Iterable[Record]]) -> Records:
        """`to_records` gives the records of one row, or raises InputError saying what is wrong with it."""
        records, problems = [], []
        for number, row in enumerate(rows, start=1):
            try:
                if not isinstance(row, dict):
                    raise InputError(f"expected an object, found {type(row).__name__}")
                records += list(to_records(row))
            except InputError as error:
                problems.append((number, f"{_named(row)}{error}"))
        if problems:
            raise BadRows(self.path, len(rows), problems)
        return Records(tuple(self.distinct(records)), self.root, self.path, sha256)

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
        if os.path.isabs(value) or os.path.normpath(value).split(os.sep)[0] == os.pardir:
            raise InputError(f"image path {value!r} leaves the data folder")
        paths = [os.path.normpath(os.path.join(folder, value)) for folder in folders]
        if not self.check_images:
            return paths[0]
        for path in paths:
            if (self.root / path).is_file():
                return path
        raise InputError(f"missing image file {value!r}")


def field(row: dict, name: str, kind: type = str):
    """A required field of a row. Raises InputError when it is missing or of another type."""
    if name not in row:
        raise InputError(f"field {name!r} is missing")
    value = row[name]
    if not isinstance(value, kind):
        raise InputError(f"field {name!r} must be {kind.__name__}, not {type(value).__name__}")
    return value


def _named(row) -> str:
    """`(id ...) ` of a row that has one, for the error list."""
    name = row.get("id") if isinstance(row, dict) else None
    return f"(id {str(name)[:60]!r}) " if isinstance(name, str | int) else ""
