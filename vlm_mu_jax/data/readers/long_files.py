"""Long files of conversations: every row is read once and checked, and then found again by its place in the file.

What stays in memory is where each row stands and what of it must be known before it is read again. A row that is asked
for is parsed anew, so 665,000 conversations need no more memory than their index.
"""

import codecs
import dataclasses
import json
import mmap
import os
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.readers.rows import BadRows, RowReader, problem_line
from vlm_mu_jax.data.records import KINDS, ImagePart, Record, Records
from vlm_mu_jax.errors import InputError

LONG = 64 << 20  # bytes of a JSON or JSON lines file from which on it is not held in memory
_WINDOW = 8 << 20  # bytes that are decoded at a time


class FileRows(Collection):
    """The rows of a JSON list or of JSON lines, parsed one after the other.

    Attributes:
      starts, ends: bytes at which each row begins and ends, as far as the file was read.

    Raises InputError for a file that is neither, when the place is reached.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts, self.ends = array("Q"), array("Q")
        self._file = open(path, "rb")  # noqa: SIM115 (open as long as the rows are read)
        self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        """Rows that were read so far."""
        return len(self.starts)

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)

    def __getitem__(self, i: int) -> Any:
        return json.loads(self._bytes[self.starts[i] : self.ends[i]])

    def __iter__(self) -> Iterator[Any]:
        self.starts, self.ends = array("Q"), array("Q")
        rows = self._objects() if self._is_list() else self._lines()
        for row, start, end in rows:
            self.starts.append(start)
            self.ends.append(end)
            yield row

    def _is_list(self) -> bool:
        return self._bytes[:1024].removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["

    def _lines(self) -> Iterator[tuple[Any, int, int]]:
        start = len(codecs.BOM_UTF8) if self._bytes[:3] == codecs.BOM_UTF8 else 0
        number = 0
        while start < len(self._bytes):
            end = self._bytes.find(b"\n", start)
            end = len(self._bytes) if end < 0 else end
            line, number = self._bytes[start:end], number + 1
            if line.strip():
                try:
                    yield json.loads(line), start, end
                except (ValueError, RecursionError):
                    raise InputError(f"{self.path}: line {number} is broken JSON; is the file complete?") from None
            start = end + 1

    def _objects(self) -> Iterator[tuple[Any, int, int]]:
        """The values of a list, decoded window by window."""
        decode, parse = codecs.getincrementaldecoder("utf-8-sig")().decode, json.JSONDecoder().raw_decode
        text, at, read, place = "", 0, 0, 3 if self._bytes[:3] == codecs.BOM_UTF8 else 0
        opened = False

        def more() -> bool:
            nonlocal text, at, read
            chunk = self._bytes[read : read + _WINDOW]
            read += len(chunk)
            try:
                text, at = text[at:] + decode(chunk, final=not chunk), 0
            except UnicodeDecodeError as error:
                raise InputError(f"{self.path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
            return bool(chunk)

        while True:
            skipped = _blank(text, at)
            place, at = place + skipped, at + skipped
            if at == len(text):
                if not more():
                    raise self._broken(place)
                continue
            if not opened or text[at] in ",]":
                if text[at] == "]":
                    return
                opened, place, at = True, place + 1, at + 1
                continue
            try:
                row, end = parse(text, at)
            except (ValueError, RecursionError):
                if more():
                    continue
                raise self._broken(place) from None
            if end == len(text) and more():  # a number could go on
                continue
            size = end - at if text.isascii() else len(text[at:end].encode())
            yield row, place, place + size
            place, at = place + size, end

    def _broken(self, place: int) -> InputError:
        return InputError(f"{self.path}: broken JSON at byte {place}; is the file complete?")


def _blank(text: str, at: int) -> int:
    """How many blanks follow."""
    end = at
    while end < len(text) and text[end] in " \t\r\n":
        end += 1
    return end - at


@dataclasses.dataclass(frozen=True)
class IndexedItems(Sequence):
    """The records of a long file, each built from its row when it is asked for.

    Attributes:
      rows: the file.
      build: (row, its number from 1) -> record.
      row_N: index of each record's row.
      repeated: record number -> k, for the k-th repetition of an id.
      kind_N: each record's kind, as its place in `KINDS`.
      answered_N: whether its first question has an answer.
      most_images: of one record.
      sources: what `Record.source` says.
      prefix: what image paths begin with, for another root.
    """

    rows: FileRows
    build: Callable[[Any, int], Record]
    row_N: np.ndarray
    repeated: dict[int, int]
    kind_N: np.ndarray
    answered_N: np.ndarray
    most_images: int
    sources: tuple[str, ...]
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.row_N)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        row = int(self.row_N[index])
        record = self.build(self.rows[row], row + 1)
        if k := self.repeated.get(index):
            record = dataclasses.replace(record, id=f"{record.id}@{k}")
        return _moved(record, self.prefix) if self.prefix else record

    def rebased(self, prefix: str) -> "IndexedItems":
        """The same records with image paths behind `prefix`."""
        return dataclasses.replace(self, prefix=os.path.join(prefix, self.prefix))


def _moved(record: Record, prefix: str) -> Record:
    turns = tuple(
        dataclasses.replace(
            turn,
            parts=tuple(
                part if isinstance(part, str) else ImagePart(os.path.normpath(os.path.join(prefix, part.path)))
                for part in turn.parts
            ),
        )
        for turn in record.turns
    )
    return dataclasses.replace(record, turns=turns)


def read(reader: RowReader, rows: FileRows, sha256: str, build: Callable[[Any, RowReader], Record]) -> Records:
    """The records of a long file. Every row is checked now, as `RowReader.read` does, and its record is let go.

    Args:
      build: the record of a row; it raises InputError saying what is wrong with it.
    """
    found, kinds, answered, repeated, problems = array("Q"), bytearray(), bytearray(), {}, []
    seen: dict[str, int] = {}
    most, sources = 0, {}
    for reader.number, row in enumerate(rows, start=1):
        try:
            record = reader.one(row, lambda row: build(row, reader))
        except InputError as error:
            problems.append((reader.number, problem_line(row, error)))
            continue
        k = seen[record.id] = seen.get(record.id, -1) + 1
        if k:
            repeated[len(found)] = k
        found.append(reader.number - 1)
        kinds.append(KINDS.index(record.kind))
        answered.append(bool(record.answer.strip()))
        most, sources[record.source] = max(most, len(record.images)), None
    if problems and (reader.on_bad == "stop" or not found):
        raise BadRows(reader.path, len(rows), problems)

    def again(row: Any, number: int) -> Record:
        one = RowReader(reader.path, reader.check_images, reader.root, reader.on_bad)
        one.number = number
        return build(row, one)

    items = IndexedItems(
        rows,
        again,
        np.frombuffer(found, np.uint64).astype(np.int64),
        repeated,
        np.frombuffer(kinds, np.uint8),
        np.frombuffer(answered, np.uint8).astype(bool),
        most,
        tuple(sources),
    )
    return Records(items, reader.root, reader.path, sha256, dict(reader.notes), tuple(problems))
