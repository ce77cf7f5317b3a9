"""bin/bench generate: greedy answers, ours and PyTorch transformers' `generate` at its best batch size.

Row `ragged` has prompts of mixed lengths with an image each. Row `shared_image` has four questions on every image: ours
runs the image and the prompt's start once for all four, which transformers cannot do. Both sides run the vision tower.
Column `peer_batch` is the batch size that was fastest for transformers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.workers import Peer
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import Batch

NEW_TOKENS = 64
QUESTIONS = 4  # on one image
PEER_BATCHES = (16, 64)


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `ragged` and `shared_image`, in tokens/s."""
    folder, file = str(options.workdir / "checkpoint"), options.workdir / "prompts.npz"
    text, vision = random_models.SIZES[options.size]
    with Peer() as peer:
        peer.ask("make", folder=folder, text=text, vision=vision, seed=options.seed, family=options.family)
        params, cfg = random_models.load(folder)
        cfg = dataclasses.replace(cfg, eos_ids=())  # both sides make all tokens
        arrays = inputs(cfg, options.rows, options.seed, random_models.picture_side(options.size))
        np.savez(file, **arrays)
        about = peer.ask("load", folder=folder, arrays=str(file))
        jobs = {
            "ragged": ("ragged", ragged(params, cfg, arrays)),
            "shared_image": ("shared", shared(params, cfg, arrays)),
        }
        rows = [_row(name, job, peer, prefix, options) for name, (prefix, job) in jobs.items()]
    return timing.result("generate", rows, about)


def inputs(cfg: ModelConfig, rows: int, seed: int, side: int) -> dict[str, np.ndarray]:
    """Ragged prompts with an image each, and prompts of which QUESTIONS (or what divides `rows`) share an image."""
    rng = np.random.default_rng(seed)
    arrays = random_models.prompts("ragged", cfg, rows, 96, rng, side)
    arrays |= random_models.prompts("shared", cfg, rows, 40, rng, side)
    size = next(size for size in range(QUESTIONS, 0, -1) if rows % size == 0)
    arrays["shared_pixels"] = np.repeat(arrays["shared_pixels"][::size], size, axis=0)
    arrays["shared_tokens"][:, : random_models.START] = arrays["shared_tokens"][:1, : random_models.START]
    return arrays | {"shared_size": np.asarray(size)}


def ragged(params: dict, cfg: ModelConfig, arrays: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    images = random_models.batch_images(arrays["ragged_pixels"], cfg)
    batch = Batch(arrays["ragged_tokens"], arrays["ragged_lengths"], **images)
    return lambda: np.asarray(generate(params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG)


def shared(params: dict, cfg: ModelConfig, arrays: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    size, tokens, pixels = int(arrays["shared_size"]), arrays["shared_tokens"], arrays["shared_pixels"]
    start, number = random_models.START + random_models.image_tokens(cfg, pixels.shape[2]), len(tokens) // size
    images = random_models.batch_images(pixels[::size], cfg)
    prefix = Batch(tokens[::size, :start], np.full(number, start, np.int32), **images)
    rest = Batch(tokens[:, start:], arrays["shared_lengths"] - start)
    return lambda: np.asarray(generate(params, rest, cfg, max_new_tokens=NEW_TOKENS, prefix=prefix).tokens_BG)


def same(ours: np.ndarray, peer: dict) -> bool:
    """A near-tie may fall the other way and change the rest of its row: one row in eight may differ."""
    return np.mean([list(a) == b for a, b in zip(ours, peer["tokens"], strict=True)]) >= 0.87


def _row(
    name: str, job: Callable[[], np.ndarray], peer: Peer, prefix: str, options: BenchmarkOptions
) -> dict[str, Any]:
    sides = {
        size: peer.side("generate", prefix=prefix, tokens=NEW_TOKENS, rows=size)
        for size in sorted({min(size, options.rows) for size in PEER_BATCHES})
    }
    best = min(sides, key=lambda size: sides[size]()[1]) if len(sides) > 1 else options.rows
    row = timing.compare(
        name,
        timing.here(job),
        sides[best],
        count=options.rows * NEW_TOKENS,
        unit="tokens/s",
        agrees=same,
        repeats=options.repeats,
    )
    return row | {"peer_batch": best}
