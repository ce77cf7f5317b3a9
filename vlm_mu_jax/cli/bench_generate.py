"""bin/bench generate: greedy answers, ours and PyTorch transformers' `generate`.

ragged: prompts of mixed lengths, an image each. shared_image: several questions on one image, which we encode once.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.cli import bench_jobs
from vlm_mu_jax.cli.bench_options import Options
from vlm_mu_jax.cli.bench_peer import Peer
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.llava import Batch, encode_images

NEW_TOKENS = 32


def measure(options: Options) -> dict[str, Any]:
    """Rows `ragged` and `shared_image`, in tokens/s."""
    folder, file = str(options.workdir / "checkpoint"), options.workdir / "prompts.npz"
    text, vision = bench_jobs.SIZES[options.size]
    with Peer() as peer:
        peer.ask("make", folder=folder, text=text, vision=vision, seed=options.seed)
        params, cfg = bench_jobs.load(folder)
        cfg = dataclasses.replace(cfg, eos_ids=())  # both sides make all tokens
        arrays = inputs(cfg, options.rows, options.seed)
        np.savez(file, **arrays)
        about = peer.ask("load", folder=folder, arrays=str(file))
        jobs = {
            "ragged": ("ragged", ragged(params, cfg, arrays)),
            "shared_image": ("shared", shared(params, cfg, arrays)),
        }
        rows = [
            bench_jobs.compare(
                name, bench_jobs.here(job), peer.side("generate", prefix=prefix, tokens=NEW_TOKENS),
                count=options.rows * NEW_TOKENS, unit="tokens/s", agrees=same, repeats=options.repeats,
            )
            for name, (prefix, job) in jobs.items()
        ]  # fmt: skip
    return bench_jobs.result("generate", rows, about)


def inputs(cfg: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Ragged prompts with an image each, and prompts on one image."""
    rng = np.random.default_rng(seed)
    arrays = bench_jobs.prompts("ragged", cfg, rows, 96, rng) | bench_jobs.prompts("shared", cfg, rows, 40, rng)
    arrays["shared_pixels"][:] = arrays["shared_pixels"][:1]
    return arrays


def ragged(params: dict, cfg: Any, arrays: dict[str, np.ndarray]) -> Any:
    batch = Batch(arrays["ragged_tokens"], arrays["ragged_lengths"], arrays["ragged_pixels"])
    return lambda: np.asarray(generate(params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG)


def shared(params: dict, cfg: Any, arrays: dict[str, np.ndarray]) -> Any:
    encode = jax.jit(encode_images, static_argnames="cfg")
    rows = len(arrays["shared_lengths"])

    def job() -> np.ndarray:
        features_1QD = encode(params, arrays["shared_pixels"][:1], cfg=cfg)
        features_BQD = jnp.broadcast_to(features_1QD, (rows, *features_1QD.shape[1:]))
        batch = Batch(arrays["shared_tokens"], arrays["shared_lengths"], None, features_BQD)
        return np.asarray(generate(params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG)

    return job


def same(ours: np.ndarray, peer: dict) -> bool:
    """A near-tie may fall the other way and change the rest of its row: one row in eight may differ."""
    return np.mean([list(a) == b for a, b in zip(ours, peer["tokens"], strict=True)]) >= 0.87
