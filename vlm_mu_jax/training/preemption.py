"""Preemption: SIGTERM, which clusters also send before they take a machine back."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax


@contextmanager
def notices(enabled: bool = True) -> Iterator[Callable[[int], bool]]:
    """Yields asked(step): whether to save after `step` and stop.

    In a job of several processes the answer is the same in all of them, whichever got the signal: JAX's preemption
    service lets them agree on the next step that none has passed. So each must ask once per step.
    """
    if not enabled:
        yield lambda step: False
    elif jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
    else:
        with _handler() as came:
            yield lambda step: came.is_set()


@contextmanager
def _handler() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; only the main thread can have a handler."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
