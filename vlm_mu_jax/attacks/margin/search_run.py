"""What every search takes beside its questions: what it is after (`SearchTarget`), and where it runs (`SearchRun`).

`results` works through many questions. Each place (a device, or a mesh of them) takes one question after the other.

`MarginsFile` keeps what is finished, so that a search killed at any moment continues with the question it was at. Every
finished question is one JSON line, on the disk before the next begins. Of two lines with the same key the later one
counts. The first line says which search the file belongs to. A file of another search (other weights, words, guard) is
started anew.
"""

import base64
import contextlib
import dataclasses
import fcntl
import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.openings import Node, Openings
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.answers import share as shares
from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.files import lines
from vlm_mu_jax.files.json_file import parse_json
from vlm_mu_jax.files.outputs import names_when_full
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.parallel.distributed import first
from vlm_mu_jax.parallel.meeting import meet, own_part, parts, remove_parts
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder


@dataclasses.dataclass(frozen=True)
class WordScores:
    """One question's result in a word search.

    Attributes:
      original: the margin of the unchanged prompt, in nats.
      margins_PW: float32 [P, W], the margin with every word at every position.
      best_PK: int [P, K], numbers of the best words at every position, best first, -1 where there are fewer.
      in_full_P: int [P], candidates that were run as whole prompts because they share no prefix.
      flops: forward FLOPs spent on the question.
    """

    original: float
    margins_PW: np.ndarray
    best_PK: np.ndarray
    in_full_P: np.ndarray
    flops: float

    def to_dict(self) -> dict[str, Any]:
        margins = np.ascontiguousarray(self.margins_PW, "<f4")
        return {
            "original": self.original,
            "shape": margins.shape,
            "margins": base64.b64encode(margins.tobytes()).decode(),
            "best": self.best_PK.tolist(),
            "in_full": self.in_full_P.tolist(),
            "flops": self.flops,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "WordScores":
        margins = np.frombuffer(base64.b64decode(row["margins"]), "<f4").reshape(row["shape"])
        return cls(row["original"], margins, np.array(row["best"]), np.array(row["in_full"]), row["flops"])


class MarginsFile:
    """An open file of finished questions, by key. One process may have it open: a second one gets a JobError.

    The processes of one job open it together; each adds to a part of its own until they `gather`. A job that searches
    only a `share` adds to a file in PATH.shards/, which gets its name when it is complete. Whoever opens the file takes
    the complete ones into it.

    Args:
      identity: what makes results those of this very search; plain values.
      kind: the class of what is kept, with `to_dict` and `from_dict`.
      share: what this job searches; None is everything.

    Its attribute `resumed` says whether the file held this very search already.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], kind: Any = WordScores, share: Share | None = None
    ):
        self._whole, self._kind = Path(path), kind
        self._complete = None if share is None else shares.folder_of(path) / f"{share.name}.jsonl"
        self._header = {"schema": 1, "search": json.loads(json.dumps(identity))}
        self.path = own_part(self._whole) if share is None else shares.folder_of(path) / f"{share.name}.searching"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._complete and self._complete.exists():
            os.replace(self._complete, self.path)
        if not first():  # process 0 has put together what a killed job left, and keeps what is finished
            meet("margins")
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed in __exit__)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scores = self._read()
        except BlockingIOError:
            self._file.close()
            raise JobError(f"{self.path}: another attack is writing it; wait for it or use another --out") from None
        except BaseException:
            with contextlib.suppress(OSError):  # of a full disk, which was told
                self._file.close()
            raise
        if self._complete:
            known = self._parsed(self._whole)[1] if self._whole.exists() else {}
            self._scores = {**known, **self._scores}
        elif first():
            self._take_parts()
            self._remove_parts()
            meet("margins")
        else:
            self.resumed, known, _ = self._parsed(self._whole)
            self._scores = {**known}

    def _read(self) -> dict[str, Any]:
        """Finished questions of this search; cuts off a torn last line, or everything of another search."""
        self.resumed, found, size = self._parsed(self.path)
        os.truncate(self.path, size if self.resumed else 0)
        if not self.resumed:
            self._append(self._header)
        return found

    def _parsed(self, path: Path) -> tuple[bool, dict[str, Any], int]:
        """(whether the file is of this search, its finished questions, bytes of its complete lines)."""
        raw = path.read_bytes()
        whole = lines.whole(raw)
        content = whole.split(b"\n")[:-1]
        try:
            header = parse_json(content[0].decode()) if content else None
            rows = (parse_json(line.decode()) for line in content[1:]) if header == self._header else ()
            found = {row.pop("key"): self._kind.from_dict(row) for row in rows}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); delete it to search again") from None
        return header == self._header, found, len(whole)

    def _take_parts(self) -> None:
        for part in (*parts(self._whole), *shares.found(shares.folder_of(self._whole)).values()):
            for key, scores in self._parsed(part)[1].items():
                if key not in self._scores or self._scores[key].to_dict() != scores.to_dict():
                    self.add(key, scores)

    def _remove_parts(self) -> None:
        remove_parts(self._whole)
        for part in shares.found(shares.folder_of(self._whole)).values():
            part.unlink()
        with contextlib.suppress(OSError):  # there is none, or another share is searched at this time
            shares.folder_of(self._whole).rmdir()

    def gather(self) -> None:
        """In a job of several processes: all get what each has added since the last time."""
        if jax.process_count() == 1:
            return
        meet("searches")
        if first():
            self._take_parts()
        meet("margins")
        if not first():
            self._scores = self._parsed(self._whole)[1]

    def __enter__(self) -> "MarginsFile":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with names_when_full(self.path):
            self._file.close()
        if kind is None and self._complete:
            os.replace(self.path, self._complete)
        elif kind is None and jax.process_count() > 1:
            meet("end of the searches")
            if first():
                remove_parts(self._whole)

    def get(self, key: str) -> Any:
        return self._scores.get(key)

    def add(self, key: str, scores: Any) -> None:
        """Returns when the line is on the disk."""
        self._append({"key": key, **scores.to_dict()})
        self._scores[key] = scores

    def _append(self, row: dict[str, Any]) -> None:
        lines.put(self._file, [json.dumps(row)], self.path)


def check_shares(path: str | Path) -> None:
    """Raises InputError when shares of the searches of a file are missing, which it names."""
    folder = shares.folder_of(path)
    there = shares.found(folder)
    if not there and not Path(path).exists():
        raise InputError(f"{folder}: no shards; make them with --shard=K/N")
    missing = [str(share) for share in shares.all_of(there) if share not in there]
    running = sorted(one.stem.replace("-of-", "/") for one in folder.glob("*.searching"))
    shares.check_none_open(folder, missing or running, "searches")


# The work on one question. It yields how much it has done (0 where it only handed work to its devices) and returns
# the result.
Work = Generator[int, None, Any]


@dataclasses.dataclass(frozen=True)
class SearchTarget:
    """What a search is after, and in which program.

    Attributes:
      openings: the beginnings of answers whose probability is the score.
      goal: "jailbreak" looks for prompts that are answered, "over_refuse" for prompts that are refused.
      steer: the guard inside the attacked program.
      lora: the adapters inside the attacked program.
    """

    openings: Openings
    goal: str = "jailbreak"
    steer: Steer | FirstPass | None = None
    lora: Mapping[str, Any] | None = None

    @property
    def sign(self) -> float:
        """1 where the goal wants a large margin, -1 where it wants a small one."""
        return self.openings.sign(self.goal)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The tree of the openings."""
        return self.openings.nodes


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """Where a search runs, where it is kept, and what watches it.

    Attributes:
      meshes: every mesh searches questions of its own at the same time. Empty: the parameters stay where they are.
      file: finished questions are added to it, and those that it holds are not searched again. None: nothing is kept.
      progress: shows progress over the work; None is silent.
    """

    meshes: Sequence[Mesh] = ()
    file: MarginsFile | None = None
    progress: Progress | None = None


@dataclasses.dataclass(frozen=True)
class Counting:
    """How progress is counted: `each` units of work an item, shown as one tick for every `unit` of them."""

    label: str = ""
    each: int = 1
    unit: int = 1


def results(
    items: Mapping[str, Any],
    begin: Callable[[Any, str, Any], Work],
    places: Sequence[Any],
    run: SearchRun = SearchRun(),
    counting: Counting = Counting(),
    *,
    finished: Callable[[Any], bool] = lambda found: True,
) -> dict[str, Any]:
    """The result of every item, by its key.

    Args:
      begin: (place, key, item) -> the work on that item.
      places: each works on one item at a time. They take turns at every yield, so that the devices of one place compute
        while the work of another is prepared.
      run: its file and progress; `places` stand for its meshes.
      finished: whether a result that the file holds is complete.
    """
    known = {key: found for key in items if run.file is not None and (found := run.file.get(key)) is not None}
    done = {key: found for key, found in known.items() if finished(found)}
    missing = {key: item for key, item in items.items() if key not in done}
    wanted = list(missing)
    together = run.file is not None and jax.process_count() > 1
    if together:  # the processes of a job share the questions out, once all have seen which are missing
        meet("missing")
        mine = set(wanted[jax.process_index() :: jax.process_count()])
        missing = {key: item for key, item in missing.items() if key in mine}
    ticks = _ticks(_in_turn(missing, begin, places, done, run.file), counting.unit)
    total = len(missing) * counting.each // counting.unit
    for _ in run.progress(ticks, counting.label, total) if run.progress and missing else ticks:
        pass
    if together:
        run.file.gather()
        done |= {key: run.file.get(key) for key in wanted}
    return done


def _in_turn(
    missing: Mapping[str, Any],
    begin: Callable[[Any, str, Any], Work],
    places: Sequence[Any],
    done: dict[str, Any],
    file: MarginsFile | None,
) -> Iterator[int]:
    """Fills `done`; yields how much was done."""
    waiting = deque(missing.items())
    running: dict[int, tuple[str, Work]] = {}
    while waiting or running:
        for at, place in enumerate(places):
            if at not in running and waiting:
                key, item = waiting.popleft()
                running[at] = key, begin(place, key, item)
            if at in running:
                key, work = running[at]
                try:
                    count = next(work)
                except StopIteration as end:
                    del running[at]
                    done[key] = end.value
                    if file is not None:
                        file.add(key, end.value)
                else:
                    yield count


def _ticks(counts: Iterable[int], unit: int) -> Iterator[None]:
    """One item for every `unit` that is done, so that the bar moves with the work."""
    total = 0
    for count in counts:
        yield from [None] * ((total + count) // unit - total // unit)
        total += count


def chosen_meshes(checkpoint: Path, sizes: tuple[int, int, int] | None, one_group: bool = False) -> list[Mesh]:
    """The groups of devices for a search, before its model is loaded.

    Each group scores one question at a time: it splits a block's candidates, and weights that do not fit one device.

    Args:
      checkpoint: model folder.
      sizes: data, fsdp and tensor of a group; None is what `placement.current()` chooses for these weights.
      one_group: every group is one copy of the weights, for work that has no candidates to split.
    """
    if sizes:
        return meshes_of(*sizes)
    config, settings = model_folder.read_config(checkpoint), model_folder.read_settings(checkpoint)
    chosen = model_folder.chosen_mesh(str(checkpoint), config, settings["dtype"])
    if chosen is None:
        return []
    return meshes_of(1 if one_group else -1, chosen.shape["fsdp"], chosen.shape["tensor"])


def meshes_of(data: int = -1, fsdp: int = 1, tensor: int = 1) -> list[Mesh]:
    """All devices of this process in equal groups, a mesh for each; no mesh where there is only one device.

    Args:
      data, fsdp, tensor: the sizes of one group. -1 stands for all devices that there are.

    Raises:
      InputError: the sizes do not divide the number of devices.
    """
    sizes, devices = (data, fsdp, tensor), jax.local_devices()
    together = len(devices) if -1 in sizes else math.prod(sizes)
    if together < 1 or len(devices) % together:
        given = ",".join(map(str, sizes))
        raise InputError(f"--mesh={given}: {together} devices do not divide the {len(devices)} there are")
    groups = [devices[at : at + together] for at in range(0, len(devices), together)]
    return [make_mesh(*sizes, devices=group) for group in groups] if len(devices) > 1 else []
