"""On which devices a model lies: the mesh that was asked for, or the least splitting with which it fits.

Every command that holds a model asks here. A process uses its own devices alone, so that processes that share questions
out between them need not wait for each other.
"""

import contextlib
import contextvars
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.sharding import Mesh

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.parallel.chips import chip_of
from vlm_mu_jax.parallel.mesh import make_mesh

_GIB = 2**30
_USED = 0.9  # of a device's memory; the rest is the compiler's and the runtime's

BytesNeeded = Callable[[Mesh, int, int], int]  # (mesh, rows, new tokens) -> bytes per device


@dataclasses.dataclass(frozen=True)
class Placement:
    """How models are placed.

    Attributes:
      sizes: (data, fsdp, tensor), one of which may be -1: all devices that are left. None chooses.
      rows: prompts that run at a time; more copies of the weights than rows are of no use.
      new_tokens: most tokens that are generated.
      training: how many times the bytes of the weights training holds, 0 where nothing trains. Rows of a training are
        not filled up, and its processes work together on the devices of all.
      tell: gets a line about each model that is placed on more than one device.
    """

    sizes: tuple[int, int, int] | None = None
    rows: int = 16
    new_tokens: int = 256
    training: float = 0.0
    tell: Callable[[str], None] | None = None

    def mesh(self, name: str, needed: BytesNeeded) -> Mesh | None:
        """The mesh for the model `name`; None is this process's first device.

        Raises:
          InputError: the sizes do not fit the devices or the model, or the model fits in no way.
        """
        devices = jax.devices() if self.training else jax.local_devices()
        if self.sizes is None and len(devices) == 1:
            return None
        if self.sizes is None:
            mesh = self._chosen(name, needed, devices)
        else:
            mesh = _asked(self.sizes, devices)
        if self.tell is not None and (len(devices) > 1 or self.sizes is not None):
            self.tell(self._line(name, mesh, self._bytes(mesh, needed), devices))
        return mesh

    def _chosen(self, name: str, needed: BytesNeeded, devices: Sequence[jax.Device]) -> Mesh:
        """The first splitting of the weights that fits: none, then tensor before fsdp, which gathers weights at every
        token. The devices that are left take further rows."""
        room, least = _USED * memory_of(devices), math.inf
        for fsdp, tensor in _splittings(len(devices)):
            data = self._copies(len(devices) // (fsdp * tensor), fsdp)
            if self.training and jax.process_count() > 1 and data * fsdp * tensor < len(devices):
                continue  # a process would have no part in it
            mesh = make_mesh(data, fsdp, tensor, list(devices[: data * fsdp * tensor]))
            try:
                bytes_here = self._bytes(mesh, needed)
            except InputError:  # a size that this axis does not divide
                continue
            if bytes_here <= room:
                return mesh
            least = min(least, bytes_here)
        if least == math.inf:
            raise InputError(
                f"{self.rows} rows cannot be spread over {len(devices)} devices of {jax.process_count()} processes;"
                f" give a batch size that is a multiple of {len(devices)}, or --mesh=data,fsdp,tensor"
            )
        raise InputError(
            f"{name}: needs {least / _GIB:.1f} GiB on each of {len(devices)} devices by estimate, of {room / _GIB:.1f}"
            " that may be used; use more devices or a smaller batch, or say --mesh=data,fsdp,tensor to try"
        )

    def _copies(self, most: int, fsdp: int) -> int:
        """How many copies of the weights share the rows: no more than rows, and in training as many as divide them."""
        if self.training:
            return next((data for data in range(most, 1, -1) if self.rows % (data * fsdp) == 0), 1)
        return min(most, max(1, self.rows // fsdp))

    def _bytes(self, mesh: Mesh, needed: BytesNeeded) -> float:
        return needed(mesh, self.rows, self.new_tokens) + self.training * needed(mesh, 0, 0)

    def _line(self, name: str, mesh: Mesh, bytes_here: int, devices: Sequence[jax.Device]) -> str:
        sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        return (
            f"{name}: {mesh.size} of {len(devices)} devices, {sizes}; about {_size(bytes_here)} of"
            f" {_size(memory_of(devices))} per device"
        )


_CURRENT: contextvars.ContextVar[Placement | None] = contextvars.ContextVar("placement", default=None)


def current() -> Placement | None:
    """The placement of models that are loaded without a mesh; None is the first device."""
    return _CURRENT.get()


@contextlib.contextmanager
def placed(placement: Placement) -> Iterator[None]:
    """Models that are loaded inside without a mesh of their own are placed so.

    Example:
      with placed(Placement()):
          model = vlm_mu_jax.load("runs/llava13b")
    """
    token = _CURRENT.set(placement)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def parse(given: Sequence[str]) -> tuple[int, int, int]:
    """The sizes of `--mesh=data,fsdp,tensor`. Raises InputError for anything but three whole numbers."""
    try:
        data, fsdp, tensor = (int(size) for size in given)
    except ValueError:
        raise InputError(f"--mesh={','.join(given)}: give three whole numbers, data,fsdp,tensor") from None
    return data, fsdp, tensor


def memory_of(devices: Sequence[jax.Device]) -> float:
    """Bytes that each of these devices has. Those of a CPU share the machine's memory."""
    own = [device for device in devices if device.process_index == jax.process_index()]  # others are not asked
    stats, chip = own[0].memory_stats() or {}, chip_of(own[0].device_kind)
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if chip is not None:
        return chip.memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(own)


def _asked(sizes: tuple[int, int, int], devices: Sequence[jax.Device]) -> Mesh:
    """The mesh of these sizes, over as many devices as they need."""
    together = math.prod(sizes)
    if together > len(devices):
        raise InputError(f"--mesh={','.join(map(str, sizes))} needs {together} devices; there are {len(devices)}")
    return make_mesh(*sizes, devices=list(devices[:together] if together > 0 else devices))


def _splittings(devices: int) -> list[tuple[int, int]]:
    """(fsdp, tensor) whose product divides the devices, the least splitting first."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    pairs = [(fsdp, tensor) for fsdp in divisors for tensor in divisors if devices % (fsdp * tensor) == 0]
    return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]))


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB" if count > _GIB / 10 else f"{count / 2**20:.1f} MiB"
