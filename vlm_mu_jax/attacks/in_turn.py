"""Work on many questions: each place takes one after the other, and a file keeps what is finished.

A search killed at any moment continues with what its file does not hold.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vlm_mu_jax.attacks.margins_file import MarginsFile
from vlm_mu_jax.progress import Progress

# Yields how much it has done, 0 where it has only handed work to its devices; returns the result.
Work = Generator[int, None, Any]


def results(
    items: Mapping[str, Any],
    begin: Callable[[Any, str, Any], Work],
    places: Sequence[Any],
    *,
    file: MarginsFile | None = None,
    finished: Callable[[Any], bool] = lambda found: True,
    progress: Progress | None = None,
    label: str = "",
    each: int = 1,
    unit: int = 1,
) -> dict[str, Any]:
    """The result of every item, by its key.

    Args:
      begin: (place, key, item) -> the work on that item.
      places: each works on one item at a time. They take turns at every yield, so that the devices of one place compute
        while the work of another is prepared.
      file: results that it holds are taken from there where `finished` says so; new ones are added to it.
      progress: wraps the loop over what is missing, `each` an item, in steps of `unit`.
    """
    known = {key: found for key in items if file is not None and (found := file.get(key)) is not None}
    done = {key: found for key, found in known.items() if finished(found)}
    missing = {key: item for key, item in items.items() if key not in done}
    ticks = _ticks(_in_turn(missing, begin, places, done, file), unit)
    for _ in progress(ticks, label, len(missing) * each // unit) if progress and missing else ticks:
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
