"""The public data sets by name: where their files lie under a data root, how they are read, what upstream counts.

A data root holds one folder per upstream source (`DATA_ROOT/figstep/...`), inside it upstream's own folders and
spellings: a clone of the repository, or its archives unpacked. Nothing is downloaded.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_mu_jax.data.readers import tables
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError

Read = Callable[[list[Path], Path, str, bool], Records]  # (files, the set's folder, its name, check_images) -> records


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One public set.

    task: "safety" or "utility". folder: under the data root. files: alternatives, tried in turn; a pattern with `*`
    takes all files that match. count: questions as published. at: where upstream is. needs: what to put into the
    folder. embedded: images lie inside the data file. confirmed: names were read in upstream's own files, or copies.
    """

    name: str
    task: str
    folder: str
    files: tuple[str, ...]
    read: Read
    count: int
    at: str
    needs: str
    embedded: bool = False
    confirmed: bool = True


@dataclasses.dataclass(frozen=True)
class Status:
    """What is on this disk of one set. state: ready, absent, incomplete (missing images or another count than the
    published one) or unreadable (`problem` says why). missing: image files that are not there, under the set's folder.
    """

    dataset: DataSet
    state: str
    count: int = 0
    missing: tuple[str, ...] = ()
    problem: str = ""


def all_sets() -> dict[str, DataSet]:
    """Every known set by name, safety first."""
    from vlm_mu_jax.data.readers import safety_sets, utility_sets

    return {one.name: one for one in (*safety_sets.SETS, *utility_sets.SETS)}


def get(name: str, task: str | None = None) -> DataSet:
    """The set of that name (and task). Raises InputError for a name that is none."""
    known = {key: one for key, one in all_sets().items() if task in (None, one.task)}
    if name not in known:
        raise InputError(f"there is no {task or 'data'} set {name!r}; choose from {', '.join(known)}")
    return known[name]


def read(dataset: DataSet, data_root: str | Path, check_images: bool = True) -> Records:
    """The set's records. Raises InputError when it is absent or broken, BadRows listing bad rows and missing images."""
    folder = Path(data_root) / dataset.folder
    found = find(dataset, data_root)
    if not found:
        raise InputError(f"{folder}: holds no {' or '.join(dataset.files)}; {dataset.needs} ({dataset.at})")
    return dataset.read(found, folder, dataset.name, check_images)


def find(dataset: DataSet, data_root: str | Path) -> list[Path]:
    """The set's data files on this disk; empty when it is absent."""
    folder = Path(data_root) / dataset.folder
    for pattern in dataset.files:
        found = sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]
        found = [path for path in found if path.is_file()]
        if found:
            return found
    return []


def status(dataset: DataSet, data_root: str | Path) -> Status:
    """What is there of a set: its text is read, its images are looked for but not opened."""
    if not find(dataset, data_root):
        return Status(dataset, "absent")
    try:
        records = read(dataset, data_root, check_images=False)
    except InputError as error:
        return Status(dataset, "unreadable", problem=str(error))
    missing = () if dataset.embedded else missing_images(records)
    whole = not missing and len(records) == dataset.count
    return Status(dataset, "ready" if whole else "incomplete", len(records), missing)


def missing_images(records: Records) -> tuple[str, ...]:
    """Image paths of the records that are no files, each once, in their order."""
    paths = dict.fromkeys(record.image for record in records if record.image is not None)
    return tuple(path for path in paths if not os.path.isfile(records.root / path))


def table(one: tables.Table) -> Read:
    """The reader of a set of one file, or of several whose rows are numbered apart."""

    def read(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
        prefixes = [""] if len(files) == 1 else [f"{file.stem}:" for file in files]
        parts = [
            tables.read(one, file, folder, name, check_images, prefix)
            for file, prefix in zip(files, prefixes, strict=True)
        ]
        return joined(parts, folder)

    return read


def joined(parts: Sequence[Records], folder: Path) -> Records:
    """The records of several files of one set as one; its sha256 is that of the files' sha256s."""
    if len(parts) == 1:
        return parts[0]
    sha256 = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return Records(tuple(item for part in parts for item in part), folder, folder, sha256)
