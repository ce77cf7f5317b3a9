"""Accelerators of this machine that JAX would miss or look for in vain; told before JAX is imported."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def leave_out_absent_tpu() -> None:
    """Where libtpu is installed without a TPU (for bin/plan), JAX would try it first, and it complains at length."""
    tpu = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    if "JAX_PLATFORMS" in os.environ or tpu or find_spec("libtpu") is None:
        return
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if _gpu() and _cuda_plugin() else "cpu"


def tell_of_idle_gpu() -> None:
    """JAX for the CPU alone on a machine with an NVIDIA GPU is nearly always a mistake."""
    if _gpu() and "cuda" in os.environ.get("JAX_PLATFORMS", "cuda") and not _cuda_plugin():
        what = "this machine has an NVIDIA GPU, but JAX is installed for the CPU alone and will not use it"
        print(f"note: {what}; pip install 'jax[cuda13]' (or cuda12 for older drivers)", file=sys.stderr)


def _gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def _cuda_plugin() -> bool:
    return any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
