"""bin/bench convert: bytes per second of bin/convert_hf, both ways, over `cp -r` of the same checkpoint.

Row `copy` turns a checkpoint into our model folder. Row `export` turns the model folder back into safetensors, and the
suite checks that the bits are the same. Column memory_ours is the largest resident memory of the command.

Ours is the whole command, with the start of Python, and ends when its files are on the disk. `cp` ends when the system
has taken them. The suite needs room for three checkpoints (7b: 14 GB each).
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_mu_jax import progress
from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.conversion.exporter import export_params
from vlm_mu_jax.errors import JobError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.vlm import param_specs

_WATCH_SECONDS = 0.05
_COMPARED_BYTES = 4 * 2**20


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `copy` and `export`, in GB/s."""
    hf, copied, ours, back = (options.workdir / name for name in ("hf", "copied", "ours", "back"))
    convert = [sys.executable, "-m", "vlm_mu_jax.cli.convert_hf"]
    sides = {
        "cp": (["cp", "-r", str(hf), str(copied)], copied),
        "copy": ([*convert, f"--source={hf}", f"--out={ours}"], None),
        "export": ([*convert, "--export", f"--source={ours}", f"--out={back}"], None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory = dict.fromkeys(sides, 0)
    try:
        make_checkpoint(hf, options.size, options.seed)
        size = sum(file.stat().st_size for file in hf.iterdir())
        for _ in progress.bar(range(options.repeats), "convert"):
            for name, (command, temporary) in sides.items():
                took, peak = run(command)
                seconds[name].append(took)
                memory[name] = max(memory[name], peak)
                if temporary:
                    shutil.rmtree(temporary)
            if different := differing(hf, back):
                raise JobError(f"convert: {', '.join(different)} came back with other bytes")
    finally:
        for folder in (hf, copied, ours, back):
            shutil.rmtree(folder, ignore_errors=True)
    speed = {name: size / 1e9 / statistics.median(times) for name, times in seconds.items()}
    rows = [
        timing.row(name, speed[name], speed["cp"], "GB/s", memory_ours=memory[name], gigabytes=size / 1e9)
        for name in ("copy", "export")
    ]
    return timing.result("convert", rows)


def run(command: list[str]) -> tuple[float, int]:
    """Seconds and largest resident memory (bytes) of a command.

    Raises:
      JobError: it failed.
    """
    os.sync()  # what earlier commands left to the system must not slow this one
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident_peak(process.pid))
        time.sleep(_WATCH_SECONDS)
    took = time.perf_counter() - start
    if process.returncode:
        raise JobError(f"{' '.join(command)} failed: {process.stderr.read().strip()[-500:]}")
    return took, peak


def _resident_peak(pid: int) -> int:
    """VmHWM of a process: the largest resident memory so far (0 when it has just ended)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def make_checkpoint(folder: Path, size: str, seed: int) -> None:
    """A random bfloat16 LLaVA in files of at most 5 GB: every value is between 2**-15 and 2 in size.

    Parameters are windows into one array of random numbers, each at a place of its own: drawing all takes minutes.
    """
    text, vision = random_models.SIZES[size]
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": text["vocab_size"] - 1,
        "text_config": {"model_type": "llama", **text},
        "vision_config": {"model_type": "clip_vision_model", **vision},
    }
    specs = flatten(param_specs(from_hf(config)))
    rng = np.random.default_rng(seed)
    longest = max(math.prod(spec.shape[1:] if spec.axes[0] == "layers" else spec.shape) for spec in specs.values())
    bits = rng.integers(0, 2**16, longest + 10_000_000, np.uint16)
    numbers = ((bits & 0x87FF) | (0x70 << 7)).view(ml_dtypes.bfloat16)  # sign, 4 bits of exponent, 7 of mantissa
    params = {}
    for path, spec in specs.items():
        layers, rest = (spec.shape[0], spec.shape[1:]) if spec.axes[0] == "layers" else (1, spec.shape)
        start = int(rng.integers(0, 1_000_000))
        window = np.lib.stride_tricks.as_strided(numbers[start:], (layers, math.prod(rest)), (2 * 100_003, 2))
        params[path] = window.reshape(spec.shape) if layers == 1 else _reshaped(window, rest)
    export_params(folder, unflatten(params), config, progress=progress.bar)


def _reshaped(window_LN: np.ndarray, rest: tuple[int, ...]) -> np.ndarray:
    """[L, N] -> [L, *rest] without a copy: the layers overlap."""
    strides = [2 * math.prod(rest[i + 1 :]) for i in range(len(rest))]
    return np.lib.stride_tricks.as_strided(window_LN, (len(window_LN), *rest), (window_LN.strides[0], *strides))


def differing(one: Path, other: Path) -> list[str]:
    """Weights files of the first folder that the second has not byte for byte."""
    return [file.name for file in sorted(one.glob("model*")) if not _same_bytes(file, other / file.name)]


def _same_bytes(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb", buffering=0) as a, open(other, "rb", buffering=0) as b:
        while piece := a.read(_COMPARED_BYTES):
            if piece != b.read(_COMPARED_BYTES):
                return False
    return True
