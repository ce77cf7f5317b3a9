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

from vlm_mu_jax.parallel.mesh import BATCH_AXES


class OnMesh:
    """A jitted function that is traced and run with `mesh` as the ambient mesh, which `spread_rows` reads."""

    def __init__(self, jitted: Callable[..., Any], mesh: Mesh) -> None:
        self._jitted, self._mesh = jitted, mesh

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with jax.set_mesh(self._mesh):
            return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit(...).lower`."""
        with jax.set_mesh(self._mesh):
            return self._jitted.lower(*args, **kwargs)


def on_mesh_of(params: Any) -> AbstractContextManager:
    """The mesh that the parameters lie on as the ambient mesh; nothing where they lie on one device."""
    place = jax.tree.leaves(params)[0].sharding
    return jax.set_mesh(place.mesh) if isinstance(place, NamedSharding) and place.mesh.size > 1 else nullcontext()


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
