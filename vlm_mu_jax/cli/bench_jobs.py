"""What bin/bench times on our side, and the inputs that both sides get.

A job is a function without arguments that runs once and returns something to compare with the peer's answer. Weights
are random, and the same on both sides: one Hugging Face checkpoint. Inputs are drawn from a seed.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.convert.importer import import_checkpoint
from vlm_mu_jax.data.batches import TrainBatch
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.llava import Batch, encode_images, param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.policy import ModelPolicy
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection, dtypes, split

LEARNING_RATE, BETA, ALPHA = 1e-5, 0.1, 1.0
NEW_TOKENS = 32
# (decoder, vision tower), in the words of Hugging Face configs
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "tiny": (
        {
            "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 4,
        },
        {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
    ),
    "small": (
        {
            "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1376,
            "num_hidden_layers": 8, "num_attention_heads": 8,
        },
        {
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
            "image_size": 112, "patch_size": 14,
        },
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the result. ours: our job; peer: (job name, arguments) there; count: tokens or examples per run.

    agrees(ours, peer) says whether both did the same work on their first run.
    """

    name: str
    ours: Callable[[], Any]
    peer: tuple[str, dict[str, Any]]
    count: int
    unit: str
    agrees: Callable[[Any, dict], bool]


def load(folder: str | Path) -> tuple[dict, Any]:
    """Parameters on the device, and the config."""
    checkpoint = import_checkpoint(folder)
    return jax.device_put(checkpoint.params), checkpoint.config


def inputs(cfg: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Drawn batches: ragged prompts with an image each, prompts on one image, forget and retain examples."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, longest in (("ragged", 96), ("shared", 40), ("forget", 64), ("retain", 64)):
        words = rng.integers(longest // 4, longest + 1, rows)
        size = cfg.vision.P + 4 + longest
        tokens, mask = np.zeros((rows, size), np.int32), np.zeros((rows, size), bool)
        for i, n in enumerate(words):
            text = rng.integers(1, cfg.text.V - 1, n + 4)
            tokens[i, : cfg.vision.P + 4 + n] = [*text[:4], *[cfg.image_token_id] * cfg.vision.P, *text[4:]]
            mask[i, cfg.vision.P + 4 + n // 2 : cfg.vision.P + 4 + n] = True
        side = cfg.vision.image_size
        pixels = rng.standard_normal((rows, 1, side, side, 3)).astype(np.float32)
        arrays |= {f"{name}_tokens": tokens, f"{name}_mask": mask, f"{name}_pixels": pixels}
        arrays[f"{name}_lengths"] = (words + cfg.vision.P + 4).astype(np.int32)
    arrays["shared_pixels"][:] = arrays["shared_pixels"][:1]
    arrays["control"] = np.asarray(make_objective("rmu", layer=0).constants(cfg.text.D, seed)["control_D"])
    return arrays


def generate_rows(params: dict, cfg: Any, arrays: dict[str, np.ndarray]) -> list[Row]:
    """ragged: prompts of mixed lengths, an image each. shared_image: several questions on one image, encoded once."""
    cfg = dataclasses.replace(cfg, eos_ids=())  # both sides make all tokens
    encode = jax.jit(encode_images, static_argnames="cfg")
    rows = len(arrays["ragged_lengths"])

    def ragged() -> np.ndarray:
        batch = Batch(arrays["ragged_tokens"], arrays["ragged_lengths"], arrays["ragged_pixels"])
        return np.asarray(generate(params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG)

    def shared() -> np.ndarray:
        features_1QD = encode(params, arrays["shared_pixels"][:1], cfg=cfg)
        features_BQD = jnp.broadcast_to(features_1QD, (rows, *features_1QD.shape[1:]))
        batch = Batch(arrays["shared_tokens"], arrays["shared_lengths"], None, features_BQD)
        return np.asarray(generate(params, batch, cfg, max_new_tokens=NEW_TOKENS).tokens_BG)

    def same(ours: np.ndarray, peer: dict) -> bool:
        """A near-tie may fall the other way and change the rest of its row: one row in eight may differ."""
        return np.mean([list(a) == b for a, b in zip(ours, peer["tokens"], strict=True)]) >= 0.87

    count = rows * NEW_TOKENS
    return [
        Row(name, job, ("generate", {"prefix": prefix, "tokens": NEW_TOKENS}), count, "tokens/s", same)
        for name, job, prefix in (("ragged", ragged, "ragged"), ("shared_image", shared, "shared"))
    ]


def unlearn_rows(params: dict, cfg: Any, arrays: dict[str, np.ndarray]) -> list[Row]:
    """One optimizer step of NPO (language model and projector) and of RMU (three layers' down projections).

    NPO's reference log-probabilities are computed once per example before training; they are not in the time, while the
    peer runs its second model in every step, as public code does.
    """
    layer = cfg.text.L // 2
    trained = tuple(range(max(layer - 2, 0), layer + 1))
    npo = make_objective("npo", beta=BETA)
    rmu = make_objective("rmu", layer=layer, retain_alpha=ALPHA, retain_weight=0.0)
    slices = Selection.of(select=(), slices={"decoder/layers/wdown_LFD": trained})
    count = 2 * len(arrays["forget_lengths"])
    rmu_arguments = {"layer": layer, "trained": list(trained), "alpha": ALPHA, "learning_rate": LEARNING_RATE}

    def same(ours: float, peer: dict) -> bool:
        return abs(ours - peer["loss"]) <= 1e-3 * abs(peer["loss"])

    return [
        Row("npo", _stepper(params, cfg, arrays, npo, FROZEN_VISION),
            ("npo", {"beta": BETA, "learning_rate": LEARNING_RATE}), count, "examples/s", same),
        Row("rmu", _stepper(params, cfg, arrays, rmu, slices), ("rmu", rmu_arguments), count, "examples/s", same),
    ]  # fmt: skip


def _stepper(params: dict, cfg: Any, arrays: dict[str, np.ndarray], objective: Any, selection: Selection) -> Callable:
    """A job that makes one more training step and returns its loss."""
    optim = OptimConfig(LEARNING_RATE, schedule="constant", warmup=0.0, clip=0.0)
    optimizer = make_optimizer(optim, 1000)
    learned, frozen = split(params, selection, param_specs(cfg), jax.random.key(0), objective.needs_reference)
    step = make_step(cfg, objective, selection, dtypes(params), optimizer)
    constants = {"control_D": jnp.asarray(arrays["control"])}
    score = jax.jit(lambda rows: ModelPolicy(params, None, None, cfg, {}).nll(rows)[0])
    rows = {}
    for name in objective.streams:
        tokens, lengths, pixels, mask = (arrays[f"{name}_{part}"] for part in ("tokens", "lengths", "pixels", "mask"))
        batch = TrainBatch(Batch(tokens, lengths, pixels), mask)
        if name in objective.reference_nll_streams:
            batch = batch.replace(reference_nll_B=score(batch))
        rows[name] = jax.tree.map(lambda x: x[None], batch)
    state = TrainState(jnp.zeros((), jnp.int32), learned, optimizer.init(learned))

    def job() -> float:
        nonlocal state
        state, metrics = step(state, frozen, rows, constants)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return job


SUITES = {"generate": generate_rows, "unlearn": unlearn_rows}
