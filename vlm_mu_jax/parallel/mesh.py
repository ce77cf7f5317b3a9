"""The device mesh, and putting host arrays onto it."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vlm_mu_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # rows of a batch are spread over both


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Mesh ("data", "fsdp", "tensor"): copies of the weights, shards of them, and split layers.

    One size may be -1: it takes the devices that are left.

    Raises:
      InputError: the sizes do not use exactly all devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise InputError(f"mesh.{name} must be at least 1, or -1 for all devices that are left, not {size}")
    if len(free) > 1:
        raise InputError(f"mesh: only one size may be -1, not {' and '.join(free)}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % fixed or (not free and fixed != len(devices)):
        shape = " x ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(
            f"mesh: {shape} does not fit {len(devices)} devices; choose sizes whose product is {len(devices)}"
        )
    if free:
        sizes[free[0]] = len(devices) // fixed
    return Mesh(np.asarray(devices).reshape(tuple(sizes.values())), AXES)


def single_device_mesh() -> Mesh:
    """The first device alone."""
    return make_mesh(1, 1, 1, jax.devices()[:1])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Host arrays onto the mesh, rows (axis `axis`) spread over data and fsdp.

    Every process holds the whole batch on the host and sends only the rows of its own devices.
    """
    spec = PartitionSpec(*(None,) * axis, BATCH_AXES)
    return jax.tree.map(lambda x: put(np.asarray(x), NamedSharding(mesh, spec)), batch)


def put(x: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """One array onto its sharding, on one process or many."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
