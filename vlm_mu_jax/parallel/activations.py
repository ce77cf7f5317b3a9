"""Where activations lie: rows over data and fsdp, whatever the weights' own split is.

XLA's partitioner is free to follow the weights instead: with `embed` split over fsdp it may keep every row on every
chip, split the width, and sum [B, T, F] products over all chips, where gathering one layer's weights moves far less.
The model therefore says it at each block. It costs nothing without a mesh, and rows that do not divide are left alone.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vlm_mu_jax.parallel.mesh import BATCH_AXES, batch_shards


class OnMesh:
    """A jitted function that is traced and run with an ambient mesh, which `spread_rows` reads.

    mesh: the mesh; None takes that on which the function's first argument, the parameters, lies at each call. Whatever
    else is asked of it (`clear_cache`, ...) the jitted function answers.
    """

    def __init__(self, jitted: Callable[..., Any], mesh: Mesh | None = None) -> None:
        self._jitted, self._mesh = jitted, mesh

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._ambient(args):
            return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(...).lower`."""
        with self._ambient(args):
            return self._jitted.lower(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)

    def _ambient(self, args: tuple) -> AbstractContextManager:
        return on_mesh_of(args[0]) if self._mesh is None else jax.set_mesh(self._mesh)


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that the parameters lie on; None where they lie on one device, or are being traced."""
    leaf = next(iter(jax.tree.leaves(params)), None)
    place = None if leaf is None or isinstance(leaf, jax.core.Tracer) else getattr(leaf, "sharding", None)
    return place.mesh if isinstance(place, NamedSharding) and place.mesh.size > 1 else None


def on_mesh_of(params: Any) -> AbstractContextManager:
    """The mesh that the parameters lie on as the ambient mesh; nothing where they lie on one device."""
    mesh = mesh_of(params)
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def even_rows(params: Any, rows: int) -> int:
    """`rows` rounded up to what the mesh of the parameters splits evenly, so that every device has as many."""
    mesh = mesh_of(params)
    shards = 1 if mesh is None else batch_shards(mesh)
    return -(-rows // shards) * shards


def row_axes(rows: int) -> tuple[str, ...] | None:
    """Axes of the ambient mesh over which this many rows are split; None when there is none or they do not divide."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)
    return None if shards == 1 or rows % shards else BATCH_AXES


def spread_rows(x: jax.Array) -> jax.Array:
    """x with its first axis split over data and fsdp; other axes stay XLA's choice."""
    axes = row_axes(x.shape[0])
    if axes is None:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *free))
