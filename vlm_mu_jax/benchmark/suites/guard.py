"""bin/bench guard: what a guard costs, against the same model without it.

Row `decode` is generation with every token steered, over generation without a guard (the "peer"). Its prompts are text
alone, since an image's tokens would make most of the time a prefill. Row `prefill` is the same for a prompt with its
image. Row `first_pass` adds the text-only first pass that a gate per example needs.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.workers import Peer
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import Batch, forward
from vlm_mu_jax.steering import gates, operators

NEW_TOKENS = 64


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `decode`, `prefill` and `first_pass`. Ours is guarded. The peer is our own model without the guard."""
    folder = str(options.workdir / "checkpoint")
    text, vision = random_models.SIZES[options.size]
    with Peer() as peer:
        peer.ask("make", folder=folder, text=text, vision=vision, seed=options.seed)
    params, cfg = random_models.load(folder)
    cfg = dataclasses.replace(cfg, eos_ids=())  # both sides make all tokens
    rng = np.random.default_rng(options.seed)
    arrays = random_models.prompts("p", cfg, options.rows, 96, rng)
    batch = jax.device_put(Batch(arrays["p_tokens"], arrays["p_lengths"], arrays["p_pixels"]))
    alone = Batch(random_models.without_image(arrays["p_tokens"], cfg), batch.lengths_B - cfg.vision.P)
    steer = jax.device_put(random_steer(cfg.text.L, cfg.text.D, rng))
    states = jax.jit(lambda p, b, s: forward(p, b, cfg, steer=s, tap="last", logits=False).taps)

    def tokens(steer: Steer | None) -> np.ndarray:
        return np.asarray(generate(params, alone, cfg, max_new_tokens=NEW_TOKENS, steer=steer).tokens_BG)

    jobs = {
        "decode": (lambda: tokens(steer), lambda: tokens(None), options.rows * NEW_TOKENS, "tokens/s"),
        "prefill": (
            lambda: np.asarray(states(params, batch, steer)),
            lambda: np.asarray(states(params, batch, None)),
            options.rows,
            "prompts/s",
        ),
        "first_pass": (
            lambda: (np.asarray(states(params, alone, None)), np.asarray(states(params, batch, steer))),
            lambda: np.asarray(states(params, batch, None)),
            options.rows,
            "prompts/s",
        ),
    }
    rows = [
        timing.compare(
            name,
            timing.here(ours),
            timing.here(theirs),
            count=count,
            unit=unit,
            agrees=lambda a, b: True,  # a guarded model answers otherwise, that is its purpose
            repeats=options.repeats,
        )
        for name, (ours, theirs, count, unit) in jobs.items()
    ]
    return timing.result("guard", rows)


def random_steer(L: int, D: int, rng: np.random.Generator) -> Steer:
    """A gated guard of rank 1 at the middle third of the layers, on for every row, at every position."""
    basis_LMD = rng.standard_normal((L, 1, D))
    basis_LMD /= np.linalg.norm(basis_LMD, axis=-1, keepdims=True)
    steer = operators.amplify(basis_LMD, 1.0, operators.parse_layers("middle", L))
    return gates.per_layer(steer, np.full(L, -1e30)).replace(scope="all")
