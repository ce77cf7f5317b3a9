"""The device mesh, and putting host arrays onto it."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    shape = tuple(sizes.values())
    if devices[0].platform == "tpu":  # neighbours in the mesh become neighbours in the torus
        return Mesh(mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True), AXES)
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def single_device_mesh() -> Mesh:
    """This process's first device alone."""
    return make_mesh(1, 1, 1, jax.local_devices()[:1])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows (axis `axis`) spread over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXES))


def process_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which of a batch's `rows` rows lie on this process's devices, ascending: all that it has to read."""
    places = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[place] for place in places]))


def put_batch(local: Any, mesh: Mesh, rows: int, axis: int = 0) -> Any:
    """Host arrays that hold `process_rows(mesh, rows)` along `axis` -> global arrays of `rows` rows."""
    sharding = batch_sharding(mesh, axis)

    def one(x: np.ndarray) -> jax.Array:
        shape = (*x.shape[:axis], rows, *x.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), shape)

    return jax.tree.map(one, local)


def put(x: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """One array onto its sharding; an array that does not span the processes yet must be the same in all of them."""
    if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
