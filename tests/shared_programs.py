"""Programs are found in the compilation cache whichever process, on whichever of its devices, has compiled them.

JAX's key of a program on CPUs holds the numbers of the devices and what the process sees of its job, so that the
processes of a job, and a job and a single process, compile their own copy of the same program. On GPUs it leaves the
numbers out. Here they are left out as well; who of the devices shares a process with whom stays in the key. JAX writes
an entry in place; here it is whole or not there, since tests kill processes and the folder outlives the run. Tests of
the product's own cache keep JAX's ways: what they start has no JAX_COMPILATION_CACHE_DIR.
"""

import os
import tempfile

from jax._src import cache_key, lru_cache  # no public option says this for CPUs

_of_options, _of_devices = cache_key._hash_serialized_compile_options, cache_key._hash_accelerator_config


def share() -> None:
    """From now on, in this process."""
    cache_key._hash_serialized_compile_options = _hash_options
    cache_key._hash_accelerator_config = _hash_devices
    lru_cache.LRUCache.put = _put


def _put(self: lru_cache.LRUCache, key: str, value: bytes) -> None:
    path = self.path / f"{key}{lru_cache._CACHE_SUFFIX}"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=self.path, delete=False) as file:
            file.write(value)
        os.replace(file.name, path)


def _hash_options(hash_obj, options, strip_device_assignment=False):
    _of_options(hash_obj, options, strip_device_assignment=True)


def _hash_devices(hash_obj, devices):
    devices_of = [(device.platform, device.device_kind, device.process_index) for device in devices.flat]
    if any(platform != "cpu" for platform, *_ in devices_of):  # chips that a program is compiled for without them
        return _of_devices(hash_obj, devices)
    processes = list(dict.fromkeys(process for *_, process in devices_of))
    said = [(kind, processes.index(process)) for _, kind, process in devices_of]
    hash_obj.update(str(said).encode())
