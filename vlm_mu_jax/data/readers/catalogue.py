"""The public data sets by name: where their files lie under a data root, how they are read, what upstream counts.

A data root holds one folder per upstream source (`DATA_ROOT/figstep/...`), inside it upstream's own folders and
spellings: a clone of the repository, or its archives unpacked. Nothing is downloaded.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_mu_jax.data.readers import (
    awareness_sets,
    dialogue_sets,
    newer_sets,
    safety_sets,
    unlearning_sets,
    utility_sets,
)
from vlm_mu_jax.data.readers.dataset import DataSet
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError, nearest

_ALL = (
    *safety_sets.SETS,
    *newer_sets.SETS,
    *dialogue_sets.SETS,
    *utility_sets.SETS,
    *awareness_sets.SETS,
    *unlearning_sets.SETS,
)


@dataclasses.dataclass(frozen=True)
class Status:
    """What this disk has of one set.

    Attributes:
      dataset: the set.
      state: "ready", "absent", "incomplete" (images are missing, or the count is not the published one) or
        "unreadable" (`problem` says why).
      count: the number of records.
      missing: image files that are not there, as paths under the set's folder.
      flaws: rows of upstream's own file that are left out, (row number from 1, what is wrong).
      problem: the reader's error.
    """

    dataset: DataSet
    state: str
    count: int = 0
    missing: tuple[str, ...] = ()
    flaws: tuple[tuple[int, str], ...] = ()
    problem: str = ""


def all_sets() -> dict[str, DataSet]:
    """Every known set by name, safety first."""
    return {one.name: one for one in _ALL}


def get(name: str, task: str | None = None) -> DataSet:
    """The set of that name (and task). Raises InputError for a name that is none."""
    known = {key: one for key, one in all_sets().items() if task in (None, one.task)}
    if name not in known:
        raise InputError(f"there is no {task or 'data'} set {name!r}; {nearest(name, known)}")
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
    whole = not missing and dataset.count in (None, len(records) + len(records.skipped))
    return Status(dataset, "ready" if whole else "incomplete", len(records), missing, records.skipped)


def problems(found: Status, shown: int | None) -> list[str]:
    """What keeps a set from being ready, one line each.

    Args:
      shown: name at most so many missing images, and do not say how to get an absent set. None says everything.
    """
    dataset = found.dataset
    if found.state == "absent":
        return [] if shown else [f"{dataset.name}: {dataset.needs} ({dataset.folder}/, from {dataset.at})"]
    if found.state == "unreadable":
        return [f"{dataset.name}: {found.problem}"]
    lines = [flaws_line(dataset, found.flaws)] if found.flaws else []
    if dataset.count not in (None, found.count + len(found.flaws)):
        lines.append(f"{dataset.name}: {found.count} questions, published are {dataset.count}")
    if found.missing:
        some = found.missing[:shown]
        more = f", and {len(found.missing) - len(some)} more" if len(found.missing) > len(some) else ""
        lines.append(f"{dataset.name}: {len(found.missing)} images are missing: {', '.join(some)}{more}")
    return lines


def flaws_line(dataset: DataSet, flaws: Sequence[tuple[int, str]]) -> str:
    """What is said of rows that are left out: `vlsbench: 1 row of upstream's file is left out: row 1686: ...`."""
    runs = [list(run) for _, run in itertools.groupby(flaws, key=_as_run())]
    rows = "; ".join(f"{_span(run[0][0], run[-1][0])}: {run[0][1]}" for run in runs)
    verb = "row of upstream's file is" if len(flaws) == 1 else "rows of upstream's file are"
    return f"{dataset.name}: {len(flaws)} {verb} left out: {rows}"


def _as_run() -> Callable[[tuple[int, str]], tuple[int, str]]:
    """A key that neighbouring rows with the same flaw share."""
    seen = itertools.count()
    return lambda flaw: (flaw[0] - next(seen), flaw[1])


def _span(first: int, last: int) -> str:
    return f"row {first}" if first == last else f"rows {first} to {last}"


def missing_images(records: Records) -> tuple[str, ...]:
    """Image paths of the records that are no files, each once, in their order."""
    paths = dict.fromkeys(path for record in records for path in record.images)
    return tuple(path for path in paths if not os.path.isfile(records.root / path))
