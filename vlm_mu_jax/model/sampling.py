"""How the next token is picked from its logits."""

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.config import ModelConfig


def of_text(logits_BV: Array, cfg: ModelConfig) -> Array:
    """Logits without the image placeholder, which is no text: it marks the place of an image in a prompt. The original
    LLaVA cannot write it (its vocabulary has none); transformers can, and needs `suppress_tokens` for the same answer.
    """
    if cfg.image_token_id is None:
        return logits_BV
    return jnp.where(jnp.arange(logits_BV.shape[1])[None] == cfg.image_token_id, -jnp.inf, logits_BV)


def likeliest(logits_BV: Array) -> Array:
    """The first token of the largest logit, as argmax, whose reduction of pairs takes twice as long on a CPU."""
    ids_V = jnp.arange(logits_BV.shape[1], dtype=jnp.int32)
    largest_B1 = logits_BV.max(axis=1, keepdims=True)
    return jnp.where(logits_BV == largest_B1, ids_V[None], ids_V[-1]).min(axis=1)


def nucleus(logits_BV: Array, top_p: float | Array) -> Array:
    """The logits of the smallest set of tokens whose probability reaches top_p, -inf for all others.

    top_p: one for all rows, or [B, 1]. The token that crosses it stays, and the likeliest one even at 0.
    """
    order_BV = jnp.argsort(-logits_BV, axis=-1)
    sorted_BV = jnp.take_along_axis(jax.nn.softmax(logits_BV), order_BV, axis=-1)
    keep_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV < top_p
    keep_BV = keep_BV.at[:, 0].set(True)
    keep_BV = jnp.take_along_axis(keep_BV, jnp.argsort(order_BV, axis=-1), axis=-1)
    return jnp.where(keep_BV | (jnp.asarray(top_p) >= 1), logits_BV, -jnp.inf)


def pick(logits_BV: Array, keys_B: Array, step: Array, temperature: float, top_p: float) -> Array:
    """Greedy at temperature 0, else one draw per row from the nucleus of `top_p`."""
    if temperature == 0.0:
        return likeliest(logits_BV)
    logits_BV = logits_BV / temperature
    if top_p < 1.0:
        logits_BV = nucleus(logits_BV, top_p)
    keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
