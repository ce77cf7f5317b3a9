"""Rows of an upstream data file of any kind: JSON, JSON lines, CSV, TSV, plain lines, Parquet.

Public sets come in all of these. Here each becomes a collection of dicts with upstream's own column names.
"""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.hashes import sha256

KEY = "#key"  # column that holds the key of a row in a JSON object of rows, and the line number of a text file
LINE = "#line"  # column of a plain text file

Row = dict[str, Any]


def load(
    path: str | Path, under: str = "", without: tuple[str, ...] = (), listed: bool = False
) -> tuple[Collection[Row], str]:
    """(the rows of a file, its sha256).

    Args:
      path: the file; its suffix tells what it is. A `.json` file may hold JSON lines, as POPE's do.
      under: key that holds the rows, for a JSON object such as {"questions": [...]}.
      without: columns of a Parquet file to leave out (images, when only the text is wanted).
      listed: whether a JSON file must hold a list, and not an object whose values are the rows.

    Raises InputError when the file is missing, broken, empty or not of its suffix's kind.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        rows: Collection[Row] = ParquetRows(path, without)
        return rows, sha256(path)
    raw = _bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    reader = _READERS.get(path.suffix.lower())
    rows = reader(path, text, under) if reader else _json(path, text, under, listed)
    if not rows:
        raise InputError(f"{path}: holds no records; check the file")
    return rows, hashlib.sha256(raw).hexdigest()


def load_object(path: str | Path) -> dict:
    """The JSON object of a file. Raises InputError when it is missing, broken or of another form."""
    content = _parsed(Path(path), _bytes(Path(path)).decode("utf-8-sig", errors="replace"))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(content).__name__}; check the file")
    return content


class ParquetRows(Collection):
    """The rows of a Parquet file, read block by block: a file with images does not fit in memory at once."""

    def __init__(self, path: Path, without: tuple[str, ...] = ()) -> None:
        try:
            import pyarrow.parquet
        except ImportError:
            raise InputError(f"{path}: Parquet needs pyarrow; pip install 'vlm_mu_jax[data]'") from None
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; check the path") from None
        except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of ValueError
            raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
        self._columns = [name for name in self._file.schema_arrow.names if name not in without]

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[Row]:
        for block in self._file.iter_batches(batch_size=64, columns=self._columns):
            yield from block.to_pylist()

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{path}: broken JSON at {where} ({error.msg}); is the file complete?") from None
    except RecursionError:
        raise InputError(f"{path}: JSON is nested too deeply; expected a list of records") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError(f"{path}: broken JSON ({str(error)[:80]}); is the file complete?") from None


def _json(path: Path, text: str, under: str, listed: bool = False) -> list[Row]:
    first, _, rest = text.lstrip().partition("\n")
    if rest.lstrip().startswith("{") and _is_object(first):
        return _lines(path, text, under)
    content = _parsed(path, text)
    if under:
        if not isinstance(content, dict) or under not in content:
            raise InputError(f"{path}: has no {under!r}; is it the right file?")
        content = content[under]
    if isinstance(content, dict) and not listed:
        content = [{KEY: key, **row} if isinstance(row, dict) else row for key, row in content.items()]
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a JSON list of records, found a {type(content).__name__}; check the file")
    return content


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path, text: str, under: str) -> list[Row]:
    """One object a line. A line ends at a line feed alone: JSON texts may hold U+2028 as it is."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number} is broken JSON; is the file complete?") from None
    return rows


def _table(separator: str) -> Any:
    def read(path: Path, text: str, under: str) -> list[Row]:
        csv.field_size_limit(1 << 30)  # MMBench holds its images as text in a column
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
        except csv.Error as error:
            raise InputError(f"{path}: broken table ({error}); is the file complete?") from None
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise InputError(f"{path}: row {number} has not as many fields as the header; is the file complete?")
        return rows

    return read


def _text(path: Path, text: str, under: str) -> list[Row]:
    lines = [line.strip() for line in text.split("\n")]
    return [{KEY: str(number), LINE: line} for number, line in enumerate(filter(None, lines))]


_READERS = {".jsonl": _lines, ".csv": _table(","), ".tsv": _table("\t"), ".txt": _text}
