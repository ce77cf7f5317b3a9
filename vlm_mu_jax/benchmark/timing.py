"""How a suite compares two sides: it warms both up, checks that they agree, and times them in turn.

A side is a function without arguments that does its job once and returns (answer, seconds). This module also builds
the rows and the result that every suite returns.
"""

import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vlm_mu_jax import progress
from vlm_mu_jax.errors import JobError

Side = Callable[[], tuple[Any, float]]


def here(job: Callable[[], Any]) -> Side:
    """A side that runs in this process. The job must return only when its work is done, with its arrays on the host."""

    def side() -> tuple[Any, float]:
        start = time.perf_counter()
        answer = job()
        return answer, time.perf_counter() - start

    return side


def compare(
    name: str,
    ours: Side,
    peer: Side,
    *,
    count: int,
    unit: str,
    agrees: Callable[[Any, Any], bool],
    repeats: int,
    floor: float | None = None,
) -> dict[str, Any]:
    """Warms both sides up, checks that they agree, and times them in turn. Returns the row of the result.

    Args:
      count: what one run makes, in the unit before "/s" (tokens, examples).
      agrees: whether both did the same work, from their first answers.
      floor: the most that the machine could do per second, when known.

    Raises:
      JobError: they do not agree.
    """
    if not agrees(ours()[0], peer()[0]):
        raise JobError(f"{name}: ours and the peer did not compute the same; their times cannot be compared")
    mine, theirs = [], []
    for _ in progress.bar(range(repeats), name):
        mine.append(ours()[1])
        theirs.append(peer()[1])
    return row(name, count / statistics.median(mine), count / statistics.median(theirs), unit, floor)


def peak_memory() -> int:
    """The largest resident memory of this process so far, bytes. ru_maxrss would include the parent that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def matmul_speed(size: int = 2048) -> float:
    """FLOP/s of one large float32 matrix product on the device: the best of ten."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2.0 * size**3 / best_of(lambda: jax.block_until_ready(product(x, x)))


def best_of(job: Callable[[], Any], times: int = 10) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    job()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        job()
        best = min(best, time.perf_counter() - start)
    return best


def row(name: str, ours: float, peer: float | None, unit: str, floor: float | None = None, **more: Any) -> dict:
    """A row of figures of which more is better. `more` are further columns, such as memory_ours in bytes."""
    ratio = None if peer is None else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "floor": floor, **more}


def result(suite: str, rows: list[dict], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """The result of a suite. about: the peer's versions and device, as its `load` answers."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{device.device_kind} ({device.platform}), {cores} CPU cores"
    if about:
        versions, where = versions | about["versions"], f"{where}; peer on {about['device']}"
    return {"suite": suite, "device": where, "versions": versions, "rows": rows}
