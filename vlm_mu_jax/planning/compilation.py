"""What a program would need on chips that are not here: memory, FLOPs, collectives and the roofline of its time.

The program is compiled ahead of time for the target. Nothing runs and no array exists. Times are the lower bounds that
peak rates allow, with computing, memory and links perfectly overlapped. A real run is slower.
"""

import dataclasses
import math
import re
import time
from typing import Any

import jax

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.parallel.chips import Chip
from vlm_mu_jax.planning.hlo import Collective, Module, Work


class DoesNotFit(JobError):
    """The compiler found that the program needs more memory than a chip has. needed: bytes per chip, if it said so."""

    def __init__(self, message: str, needed: float | None) -> None:
        super().__init__(message)
        self.needed = needed


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program on one chip. Bytes: arguments, temporaries, outputs (of them aliased: written over arguments)
    and the highest sum that lives at one time. seconds: what compiling took."""

    argument: float
    temporary: float
    output: float
    aliased: float
    peak: float
    work: Work
    seconds: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Least seconds per run by what each part of a chip must do, on all chips in parallel."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """Which part takes longest."""
        parts = {"compute": self.compute, "memory": self.memory, "links": self.links}
        return max(parts, key=parts.get)


def compile_ahead(jitted: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> Program:
    """Compiles for the devices of the arguments' shardings.

    Args:
      jitted: a `jax.jit` function or `activations.OnMesh`.
      args, kwargs: `jax.ShapeDtypeStruct`s with shardings on the target's devices.

    Raises:
      DoesNotFit: the compiler ran out of memory on a chip.
    """
    start = time.monotonic()
    try:
        compiled = jitted.lower(*args, **(kwargs or {})).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(" ".join(str(error).split())[:300], needed_bytes(str(error))) from error
    memory = compiled.memory_analysis()
    return Program(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.peak_memory_in_bytes,
        Module(compiled.as_text()).work(),
        time.monotonic() - start,
    )


def needed_bytes(message: str) -> float | None:
    """The total in the compiler's message: "Used 26.19G of 15.75G hbm", "... temporaries (400.00G) exceeds ..."."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of", message) or re.search(r"\(([\d.]+)([KMGT])\) exceeds", message)
    return float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]] if found else None


def roofline(work: Work, chip: Chip) -> Roofline:
    """Bounds from one chip's work. Matrix products at the dense bfloat16 rate, traffic of collectives as of rings."""
    sent = sum(one.sent for one in work.collectives.values())
    return Roofline(work.flops / chip.flops, work.traffic / chip.bandwidth, sent / chip.links)


def bytes_per_chip(tree: Any) -> float:
    """What the arrays of a tree take on one chip, from shapes and shardings alone (without padding)."""
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def extrapolated(shallow: Program, deep: Program, depths: tuple[int, int], depth: int) -> Program:
    """The program at another number of scanned layers, from two compiled ones: everything in it grows linearly."""
    share = (depth - depths[0]) / (depths[1] - depths[0])

    def line(a: float, b: float) -> float:
        return a + share * (b - a)

    kinds = shallow.work.collectives.keys() | deep.work.collectives.keys()
    pairs = {kind: [w.collectives.get(kind, Collective()) for w in (shallow.work, deep.work)] for kind in kinds}
    collectives = {
        kind: Collective(line(a.count, b.count), line(a.bytes, b.bytes), line(a.sent, b.sent))
        for kind, (a, b) in pairs.items()
    }
    work = Work(
        line(shallow.work.flops, deep.work.flops),
        line(shallow.work.traffic, deep.work.traffic),
        collectives,
        deep.work.kernels,
    )
    names = ("argument", "temporary", "output", "aliased", "peak")
    sizes = [line(getattr(shallow, name), getattr(deep, name)) for name in names]
    return Program(*sizes, work, shallow.seconds + deep.seconds)
