"""One public data set: where its files lie, how they are read, how many questions upstream counts."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_mu_jax.data.readers import tables
from vlm_mu_jax.data.records import Records

# (the set's files, the set's folder, the set's name, check_images) -> its records.
Read = Callable[[list[Path], Path, str, bool], Records]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set.

    Attributes:
      name: the name it is asked for by.
      task: "safety" or "utility".
      folder: its folder under the data root. Sets of one source share one.
      files: data files under `folder`. They are alternatives, tried in turn. A pattern with `*` takes every match.
      read: its reader.
      count: the number of questions as published; None where it is not known here.
      at: where upstream is.
      needs: what to put into the folder.
      embedded: True when the images lie inside the data file.
      confirmed: True when the names were read in upstream's own files or in copies of them.
    """

    name: str
    task: str
    folder: str
    files: tuple[str, ...]
    read: Read
    count: int | None
    at: str
    needs: str = "clone the repository there"
    embedded: bool = False
    confirmed: bool = True


def anywhere(*names: str) -> tuple[str, ...]:
    """The places of a data file: where a clone of its repository has it, or the set's folder itself."""
    return tuple(dict.fromkeys(part for name in names for part in (name, name.rpartition("/")[2])))


def table(one: tables.Table) -> Read:
    """The reader of a set of one file. The rows of several files are numbered apart, by the file's name."""

    def read(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
        prefixes = [""] if len(files) == 1 else [f"{file.stem}:" for file in files]
        parts = [
            tables.read(one, file, folder, name, check_images, prefix)
            for file, prefix in zip(files, prefixes, strict=True)
        ]
        return joined(parts, folder)

    return read


def joined(parts: Sequence[Records], folder: Path) -> Records:
    """The records of a set's files as one. Its sha256 is the hash of the files' sha256s."""
    if len(parts) == 1:
        return parts[0]
    sha256 = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    items = tuple(item for part in parts for item in part)
    notes = sum((Counter(part.notes) for part in parts), Counter())
    skipped = tuple(problem for part in parts for problem in part.skipped)
    return Records(items, folder, folder, sha256, dict(notes), skipped)
