"""Generation: prefill, then a `lax.while_loop` that stops when every row has ended.

The prompt's keys and values are one segment, the generated tokens' another, so rows of different prompt length share
one program without shifting anything and a batch of mixed lengths equals the rows one by one.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.decoder import KV, Steer
from vlm_mu_jax.model.llava import Batch, forward, logits_of
from vlm_mu_jax.model.params import Params


@flax.struct.dataclass
class Generated:
    """tokens_BG: generated ids, `pad_id` after the end. lengths_B: tokens generated, the end token included.
    logprobs_BG: log-probability of each under the model's own distribution (temperature 1). gate_LB: the guard's."""

    tokens_BG: Array
    lengths_B: Array
    logprobs_BG: Array
    gate_LB: Array | None = None


@functools.partial(jax.jit, static_argnames=("cfg", "max_new_tokens", "temperature", "top_p"))
def generate(
    params: Params,
    batch: Batch,
    cfg: LlavaConfig,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds_B: Array | None = None,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> Generated:
    """Continues every row.

    Args:
      batch: prompts, right-padded; any mix of lengths.
      max_new_tokens: G, the upper bound on new tokens.
      temperature: 0 is greedy; otherwise sampling from the `top_p` nucleus.
      seeds_B: int32 seed per row (0 by default); a row's draw depends on its own seed only, not on its neighbours.
      steer: guard; its gates are decided at prefill and reused for every generated token.
      lora: adapters, as in `forward`.
    """
    B, G = batch.tokens_BT.shape[0], max_new_tokens
    rows = jnp.arange(B)
    keys_B = jax.vmap(jax.random.key)(jnp.zeros((B,), jnp.int32) if seeds_B is None else seeds_B)
    first = forward(params, batch, cfg, lora=lora, steer=steer, keep_cache=True, logits=False)
    if steer is not None and steer.gated and steer.gate_LB is None:
        steer = steer.replace(gate_LB=first.gate_LB)
    decode_steer = steer if steer is not None and steer.scope == "all" else None
    prompt, shape = first.cache, first.cache.k.shape
    empty = jnp.zeros((shape[0], B, G, *shape[3:]), first.cache.k.dtype)
    state = {
        "step": jnp.zeros((), jnp.int32),
        "logits": logits_of(params, first.hidden_BTD[rows, batch.lengths_B - 1], cfg),
        "done": jnp.zeros((B,), bool),
        "tokens": jnp.full((B, G), cfg.pad_id, jnp.int32),
        "logprobs": jnp.zeros((B, G), jnp.float32),
        "lengths": jnp.zeros((B,), jnp.int32),
        "k": empty, "v": empty,
    }  # fmt: skip

    def body(s: dict[str, Array]) -> dict[str, Array]:
        step, live = s["step"], ~s["done"]
        token_B = _pick(_of_text(s["logits"], cfg), keys_B, step, temperature, top_p)
        logprob_B = jnp.take_along_axis(jax.nn.log_softmax(s["logits"]), token_B[:, None], axis=1)[:, 0]
        ended = functools.reduce(jnp.logical_or, [token_B == e for e in cfg.eos_ids], jnp.zeros((B,), bool))
        made = KV(s["k"], s["v"], batch.lengths_B[:, None] + jnp.arange(G)[None],
                  jnp.broadcast_to(jnp.arange(G)[None] < step, (B, G)))  # fmt: skip
        one = Batch(jnp.where(live, token_B, cfg.pad_id)[:, None], jnp.ones((B,), jnp.int32))
        out = forward(params, one, cfg, past=(prompt, made), offset_B=batch.lengths_B + step,
                      lora=lora, steer=decode_steer, keep_cache=True, logits=False)  # fmt: skip
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
        return {
            "step": step + 1,
            "logits": logits_of(params, out.hidden_BTD[:, 0], cfg),
            "done": s["done"] | ended,
            "tokens": put(s["tokens"], jnp.where(live, token_B, cfg.pad_id)[:, None]),
            "logprobs": put(s["logprobs"], jnp.where(live, logprob_B, 0.0)[:, None]),
            "lengths": s["lengths"] + live,
            "k": jax.lax.dynamic_update_slice_in_dim(s["k"], out.cache.k, step, axis=2),
            "v": jax.lax.dynamic_update_slice_in_dim(s["v"], out.cache.v, step, axis=2),
        }

    end = jax.lax.while_loop(lambda s: (s["step"] < G) & ~s["done"].all(), body, state)
    return Generated(end["tokens"], end["lengths"], end["logprobs"], None if steer is None else first.gate_LB)


def _of_text(logits_BV: Array, cfg: LlavaConfig) -> Array:
    """Logits without the image placeholder, which is no text: it marks the place of an image in a prompt. The original
    LLaVA cannot write it (its vocabulary has none); transformers can, and needs `suppress_tokens` for the same answer.
    """
    if cfg.image_token_id is None:
        return logits_BV
    return jnp.where(jnp.arange(logits_BV.shape[1])[None] == cfg.image_token_id, -jnp.inf, logits_BV)


def _pick(logits_BV: Array, keys_B: Array, step: Array, temperature: float, top_p: float) -> Array:
    """Greedy, or one draw per row from the smallest set of tokens whose probability reaches `top_p`."""
    if temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits = logits_BV / temperature
    if top_p < 1.0:
        order = jnp.argsort(-logits, axis=-1)
        sorted_p = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
        keep = jnp.cumsum(sorted_p, axis=-1) - sorted_p < top_p  # the token that crosses top_p stays,
        keep = keep.at[:, 0].set(True)  # and the likeliest one even at top_p = 0
        keep = jnp.take_along_axis(keep, jnp.argsort(order, axis=-1), axis=-1)
        logits = jnp.where(keep, logits, -jnp.inf)
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
