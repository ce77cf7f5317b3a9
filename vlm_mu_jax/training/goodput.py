"""Where the wall time of a run goes: every second belongs to one phase, and programs compiled and found are counted.

The host runs ahead of the device. A wait for data is a loss only when the device had nothing left to do meanwhile, and
a checkpoint costs only what the loop waits for it; what the device does in the background of either is a step.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.monitoring

PHASES = ("step", "compile", "data", "checkpoint", "evaluation", "setup")
_COMPILE = "/jax/core/compile/backend_compile_duration"  # also when the program comes out of the cache on disk
_LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_HIT = "/jax/compilation_cache/cache_hits"


class Goodput:
    """Seconds per phase since it was made; what is not in another phase is "setup" (loading, references, export)."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase, self._since = "setup", time.monotonic()
        self._programs = self._found = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The time inside is `name`'s, except for phases inside it."""
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def shift(self, seconds: float, to: str) -> None:
        """Time of the current phase that turned out to be another's."""
        if to != self._phase:
            self._seconds[to] += seconds
            self._seconds[self._phase] -= seconds

    def seconds(self) -> dict[str, float]:
        """Per phase, up to now; the sum is the wall time."""
        self._switch(self._phase)
        return dict(self._seconds)

    def share(self) -> float:
        """The part of the wall time that went into steps, 0..1."""
        seconds = self.seconds()
        return seconds["step"] / max(sum(seconds.values()), 1e-9)

    def result(self) -> dict[str, Any]:
        """What goodput.json holds."""
        programs = {"compiled": self._programs - self._found, "from_cache": self._found}
        return {"goodput": self.share(), "seconds": self.seconds(), "programs": programs}

    @contextmanager
    def watching_compiles(self) -> Iterator[None]:
        """Counts what is compiled inside, in whatever phase, and makes it compile time."""
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._on_duration)
            jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, seconds: float, **_: Any) -> None:
        if event in (_COMPILE, _LOWER):
            self._programs += event == _COMPILE
            self.shift(seconds, "compile")

    def _on_event(self, event: str, **_: Any) -> None:
        self._found += event == _HIT

    def _switch(self, name: str) -> str:
        now = time.monotonic()
        self._seconds[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, name, now
        return before


def summary(result: dict[str, Any]) -> str:
    """One line for people."""
    seconds = result["seconds"]
    total = sum(seconds.values())
    shares = ", ".join(f"{name} {100 * value / max(total, 1e-9):.1f} %" for name, value in seconds.items())
    programs = result["programs"]
    return (
        f"{total:.1f} s: {shares}; programs: {programs['compiled']} compiled, {programs['from_cache']} from the cache"
    )
