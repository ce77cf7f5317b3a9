"""bin/bench train: the training loop as bin/train runs it, on random weights drawn on this device.

npo-lora   rank 16 on every linear map of the language model
npo-full   language model and projector, float32 master weights and Adam moments
rmu        three layers' down projections, steered at a quarter of the depth

Every row reads --rows forget and --rows retain examples per step, each with an image and of full length. Weights are
bfloat16 on an accelerator and float32 on a CPU. Each row has a process of its own.

Columns:
  ours          real tokens per second
  floor         the same at the chip's peak FLOP/s, empty where the peak is not known (a CPU)
  mfu           ours / floor: model FLOPs of what is trained (training/flops.py) over the peak
  memory_peak   the most that the device held, on a CPU the process

There is no peer: `bin/bench unlearn` compares these steps with public PyTorch code.
"""

import sys
from typing import Any

from vlm_mu_jax import progress
from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.workers import Worker

ROWS = ("npo-lora", "npo-full", "rmu")


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """A row per way of training, in tokens/s."""
    rows = []
    for name in progress.bar(ROWS, "train"):
        with Worker(name, [sys.executable, "-m", "vlm_mu_jax.benchmark.training_worker"]) as worker:
            seen = worker.ask(name, size=options.size, rows=options.rows, repeats=options.repeats, seed=options.seed)
        rows.append(
            timing.row(
                name,
                seen["tokens_per_second"],
                None,
                "tokens/s",
                seen["floor"],
                mfu=seen["mfu"],
                step_seconds=seen["step_seconds"],
                batch=seen["batch"],
                step_tflop=seen["step_flops"] / 1e12,
                memory_peak=seen["memory"],
            )
        )
    return timing.result("train", rows)
