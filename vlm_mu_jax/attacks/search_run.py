"""What every search takes beside its questions: what it is after (`SearchTarget`), and where it runs (`SearchRun`).

`results` works through many questions. Each place (a device, or a mesh of them) takes one question after the other, and
a file keeps what is finished, so that a search killed at any moment continues with what its file does not hold.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from vlm_mu_jax.attacks.margins_file import MarginsFile
from vlm_mu_jax.attacks.openings import Node, Openings
from vlm_mu_jax.attacks.prefix import FirstPass
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.progress import Progress

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
    ticks = _ticks(_in_turn(missing, begin, places, done, run.file), counting.unit)
    total = len(missing) * counting.each // counting.unit
    for _ in run.progress(ticks, counting.label, total) if run.progress and missing else ticks:
        pass
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


def meshes_of(data: int = -1, fsdp: int = 1, tensor: int = 1) -> list[Mesh]:
    """All devices in equal groups, a mesh for each; no mesh where there is only one device.

    Args:
      data, fsdp, tensor: the sizes of one group. -1 stands for all devices that there are.

    Raises:
      InputError: the sizes do not divide the number of devices.
    """
    sizes, devices = (data, fsdp, tensor), jax.devices()
    together = len(devices) if -1 in sizes else math.prod(sizes)
    if together < 1 or len(devices) % together:
        given = ",".join(map(str, sizes))
        raise InputError(f"--mesh={given}: {together} devices do not divide the {len(devices)} there are")
    groups = [devices[at : at + together] for at in range(0, len(devices), together)]
    return [make_mesh(*sizes, devices=group) for group in groups] if len(devices) > 1 else []
