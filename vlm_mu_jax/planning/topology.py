"""Devices of a machine that is not here: the target of a compilation ahead of time.

A TPU topology is compiled for with libtpu, which needs no TPU. There is no such compiler for GPUs: there the program is
compiled for the same number of TPU v5p chips, and what comes out is an estimate.
"""

import dataclasses
import importlib.metadata
import math
import os
import re
from importlib.util import find_spec
from typing import Any

import jax

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.parallel.chips import CHIPS, Chip

_V5P_SHAPES = {1: "1x1x1", 2: "1x2x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
# libtpu otherwise asks Google Cloud's metadata server who it is, and lets one process per machine in
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class PlanTarget:
    """Where a program is to run. memory: bytes per chip. devices: what it is compiled for.

    compiled_for: the stand-in's name when `devices` are not chips of this kind.
    """

    topology: str
    chip: Chip
    memory: float
    devices: list[Any]
    compiled_for: str | None = None


def target(topology: str, hbm_gib: float | None = None) -> PlanTarget:
    """Reads "v5e:8x8" (type and shape of a TPU slice) or "gpu:8xH100".

    Args:
      hbm_gib: memory per chip to plan with, instead of the chip's own.

    Raises:
      InputError: no such topology, or libtpu is not installed.
    """
    kind, _, shape = topology.partition(":")
    tpus = [name for name, chip in CHIPS.items() if chip.kinds[0].startswith("TPU")]
    gpus = [name for name in CHIPS if name not in tpus]
    if kind in tpus and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        chip, stand_in, name = CHIPS[kind], None, topology
    elif kind == "gpu" and (found := re.fullmatch(r"(\d+)x(\w+)", shape)) and found[2] in gpus:
        count = int(found[1])
        if count not in _V5P_SHAPES:
            raise InputError(f"--topology={topology}: GPUs are planned for in {_list(_V5P_SHAPES)}, not {count}")
        chip, name = CHIPS[found[2]], f"v5p:{_V5P_SHAPES[count]}"
        stand_in = f"{count} x TPU v5p"
    else:
        raise InputError(
            f"--topology={topology} is unknown; write TYPE:SHAPE with type {_list(tpus)} (v5e:8x8, v5p:2x2x1), or "
            f"gpu:NUMBERxNAME with name {_list(gpus)} (gpu:8xH100)"
        )
    memory = chip.memory if hbm_gib is None else hbm_gib * 2**30
    return PlanTarget(topology, chip, memory, _tpu_devices(name), stand_in)


def compiler() -> str:
    """Name and version of the TPU compiler."""
    try:
        return f"libtpu {importlib.metadata.version('libtpu')}"
    except importlib.metadata.PackageNotFoundError:
        return f"libtpu at {os.environ.get('TPU_LIBRARY_PATH')}"


def _list(names: Any) -> str:
    return ", ".join(map(str, names))


def _tpu_devices(name: str) -> list[Any]:
    if find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError("planning needs the TPU compiler, libtpu; install it: pip install 'vlm_mu_jax[tpu]'")
    from jax.experimental import topologies

    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    sizes = [int(n) for n in name.partition(":")[2].split("x")]
    options = {}
    if math.prod(sizes) < 4:  # less than one host's 2 x 2 chips
        options["chips_per_host_bounds"] = (*sizes, 1)[:3]
    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"{name}: the TPU compiler does not know this topology ({_first_line(error)})") from error
    assert len(devices) == math.prod(sizes), (name, len(devices))
    return devices


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
