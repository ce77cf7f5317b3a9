"""bin/bench train: the training loop as bin/train runs it, on random weights drawn on this device.

npo-lora   rank 16 on every linear map of the language model
npo-full   language model and projector, float32 master weights and Adam moments
rmu        three layers' down projections, steered at a quarter of the depth
rmu and both npo read --rows forget and --rows retain examples per step, every one with an image and of full length

ours: real tokens per second. floor: the same at the chip's peak FLOP/s, so ours / floor is the mfu column (model FLOPs
of what is trained, see training/flops.py); empty where the peak is not known (a CPU). memory_peak: the most that the
device held, on a CPU the process; each row has a process of its own. Weights are bfloat16 on an accelerator, float32 on
a CPU. There is no peer: public PyTorch code for these steps is compared in `bin/bench unlearn`.
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
