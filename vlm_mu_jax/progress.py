"""Progress of a long loop, on stderr: a live bar on a terminal, one plain line every few seconds anywhere else."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# What long functions take as `progress`: called with (iterable, label, total or None), yields the items. `bar` is one.
Progress = Callable[..., Iterable]

PLAIN_SECONDS = 5.0  # how often a log file gets a line
_live = None  # the one rich display of this process; nested bars are more lines of it


def bar(iterable: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yields the items of `iterable` and shows how far they are; `total` is needed when it has no length."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    show = _live_bar if _interactive() else _plain_lines
    yield from show(iterable, label, total)


def _interactive() -> bool:
    if not sys.stderr.isatty():  # saves the import of rich in the common case of a log file
        return False
    from rich.console import Console

    return Console(stderr=True).is_interactive


def _plain_lines(iterable: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    start = shown = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= PLAIN_SECONDS:
            shown = now
            print(_plain_line(label, done, total, now - start), file=sys.stderr, flush=True)
    if time.monotonic() - start >= 1.0:
        print(f"{label}: {done} in {_clock(time.monotonic() - start)}", file=sys.stderr, flush=True)


def _plain_line(label: str, done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{label}: {done} after {_clock(seconds)}"
    left = seconds / done * max(total - done, 0)
    return f"{label}: {done}/{total} ({100 * done // total} %) after {_clock(seconds)}, about {_clock(left)} left"


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _live_bar(iterable: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    global _live
    outermost = _live is None
    if outermost:
        _live = _display()
        _live.start()
    display = _live
    task = display.add_task(label, total=total)
    try:
        for item in iterable:
            yield item
            display.advance(task)
    finally:
        if outermost:
            display.stop()
            _live = None
        else:
            display.remove_task(task)  # a finished inner bar would push the outer one off the screen


def _display():
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    # Redirecting stdout keeps prints above the bar, but only where both are the terminal: piped output stays as it is.
    return progress.Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
