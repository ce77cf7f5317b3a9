"""Latent adversarial training: the attack on the residual stream that a model has to forget under (arXiv 2407.15549).

An attacker adds delta to the residual stream behind some decoder blocks, at image and prompt positions of the forget
rows, so that the harmful answers become likely:

    delta <- project(AdamW(delta, gradient of CE(forget)))   `steps` times from 0,   |delta| <= length at every position

The forget gradient is then taken with delta in place, and delta is constant there. Every row, layer and position has
its own delta.

Source: aengusl/latent-adversarial-training@53ac752 latent_at/lat_methods.py (projected_gradient_descent: AdamW without
schedule, its weight decay 0.01, projection after every update) and latent_at/laa/attacks.py (GDAdversary: zero start,
prompt positions, added to the block's MLP output). There the adversary may also be pushed away from the defended
answer; unlearning has none.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.objectives.keep import CE
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.reading import class_mask

if TYPE_CHECKING:
    from vlm_mu_jax.training.robust import Robust

RELEARN = Objective(((1.0, CE("forget")),))  # what an attacker minimises
WEIGHT_DECAY = 0.01
POSITIONS = ("image", "prompt")


def latent_attack(
    gradient: Callable[[Objective, Array], Array], rows: Any, cfg: ModelConfig, robust: "Robust"
) -> Array:
    """float32 [micro-batches, N, rows, T, D]: delta behind blocks 0..N - 1, 0 where nothing is attacked.

    Args:
      gradient: of an objective by delta.
      rows: the forget rows of the step, whose leaves lead with [micro-batches, rows].
      cfg: the model's configuration.
      robust: `layers`, `length`, `steps` and `rate` are read.

    Raises:
      InputError: the decoder has no such layer.
    """
    if max(robust.layers) >= cfg.text.L:
        raise InputError(f"robust.layers: {robust.layers} names a layer beyond the decoder's 0..{cfg.text.L - 1}")
    place_MBT = jax.vmap(lambda micro: class_mask(micro, cfg.image_token_id, POSITIONS))(rows)
    chosen_N = jnp.isin(jnp.arange(max(robust.layers) + 1), jnp.asarray(robust.layers))
    where = chosen_N[None, :, None, None, None] & place_MBT[:, None, :, :, None]
    delta = jnp.zeros((*where.shape[:-1], cfg.text.D), jnp.float32)
    optimizer = optax.adamw(robust.rate, weight_decay=WEIGHT_DECAY)

    def update(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        delta, state = carry
        slope = jnp.where(where, gradient(RELEARN, delta), 0.0)
        change, state = optimizer.update(slope, state, delta)
        return (projected(delta + change, robust.length), state), None

    (delta, _), _ = jax.lax.scan(update, (delta, optimizer.init(delta)), length=robust.steps)
    return jax.lax.stop_gradient(delta)


def projected(delta: Array, length: float) -> Array:
    """The nearest point whose last axis has at most this norm."""
    return delta / jnp.maximum(jnp.linalg.norm(delta, axis=-1, keepdims=True) / length, 1.0)
