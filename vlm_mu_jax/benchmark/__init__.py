"""How fast the product is, beside other code that does the same work on the same machine.

A suite draws random weights and inputs from a seed, gives the same ones to both sides, checks that both sides computed
the same, and times them in turn after a warm-up. `measure` runs one suite and returns its result; `table.text` prints
it. Where memory is compared, each side is a process of its own (`workers`).
"""

from importlib import import_module
from typing import Any

from vlm_mu_jax.benchmark.options import BenchmarkOptions

# What a suite is called on the command line, and the module of `suites/` that holds it.
SUITES = {
    "generate": "generation",
    "unlearn": "unlearning",
    "train": "training",
    "attack": "word_search",
    "guard": "guard",
    "convert": "conversion",
    "plan": "plans",
    "attention": "attention",
    "storage": "storage",
    "serve": "serving",
    "weights": "real_weights",
    "cold": "cold_start",
    "accelerator": "accelerator",
}


def measure(suite: str, options: BenchmarkOptions) -> dict[str, Any]:
    """Runs one suite.

    Args:
      suite: a key of `SUITES`.
      options: size of the random model, rows, repeats, seed, and the folder for checkpoints and inputs.

    Returns:
      {"suite", "device", "versions", "rows": [{"name", "ours", "peer", "unit", "ratio", "floor", ...}]}. A ratio above
      1 means that ours is better. `floor` is the physical limit in the same unit, or None where none is known.

    Raises:
      InputError: the suite's peer is not installed, or the suite needs a checkout.
      JobError: both sides did not compute the same, or one of them failed.
    """
    return import_module(f"vlm_mu_jax.benchmark.suites.{SUITES[suite]}").measure(options)
