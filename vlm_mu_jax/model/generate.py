"""Generation: prefill, then a `lax.while_loop` that stops when every row has ended.

The prompt's keys and values are one segment and the generated tokens' are another. Rows of different prompt lengths
therefore share one program without shifting anything, and a batch of mixed lengths equals its rows one by one. Prompts
that begin alike (with the same image) run that beginning once. It is a third segment, one copy for each group of rows.
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.cache import KV, apart, readable, without_images
from vlm_mu_jax.model.checks import check_batch, check_cut, check_seeds
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.cpu_weights import for_cpu
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.sampling import of_text, pick
from vlm_mu_jax.model.steer import LATE, Steer, hides_image, on_prefix, while_decoding
from vlm_mu_jax.model.vlm import Batch, Output, forward, image_tokens, logits_of
from vlm_mu_jax.parallel.activations import OnMesh

# Prompts of this many tokens or more run the last block for their last token alone. That saves time in every run and
# costs compile time, so that it does not pay for short prompts.
LONG = 128
CHUNK = 8  # tokens that `stream` makes between two yields


@flax.struct.dataclass
class Generated:
    """Answers of all rows.

    tokens_BG: generated ids, `pad_id` after the end. lengths_B: tokens generated, the end token included.
    logprobs_BG: log-probability of each token under the model's own distribution (temperature 1).
    gate_LB: gates that the guard decided at the prompt, None without a guard.
    """

    tokens_BG: Array
    lengths_B: Array
    logprobs_BG: Array
    gate_LB: Array | None = None


@flax.struct.dataclass
class Decoding:
    """State of the loop over new tokens.

    step: tokens made so far. prompt: key/value segments of the prompts, which have prompts_B tokens. made: the segment
    of the tokens made. logits_BV: what the next token is picked from. steer: what steers the tokens to come.
    """

    step: Array
    prompt: tuple[KV, ...]
    prompts_B: Array
    made: KV
    logits_BV: Array
    done_B: Array
    keys_B: Array
    out: Generated
    steer: Steer | None


def generate(
    params: Params,
    batch: Batch,
    cfg: ModelConfig,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds_B: Array | None = None,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
    prefix: Batch | None = None,
) -> Generated:
    """Continues every row.

    Args:
      batch: prompts, right-padded; any mix of lengths.
      max_new_tokens: G, the upper bound on new tokens.
      temperature: 0 is greedy; otherwise sampling from the `top_p` nucleus.
      seeds_B: int32 seed per row (0 by default); a row's draw depends on its own seed only, not on its neighbours.
      steer: guard; its gates are decided at prefill and reused for every generated token.
      lora: adapters, as in `forward`.
      prefix: R beginnings of prompts (R a divisor of B), each of which runs once: row b of `batch` holds what follows
        beginning b // (B / R), one token at least. The same answers as from whole prompts where `can_share` says so.

    Raises:
      InputError: a batch of wrong shapes, dtypes or lengths, or a prefix cut at a wrong place; see `checks`.
    """
    rows = _checked(batch, cfg, max_new_tokens, seeds_B)
    if prefix is not None:
        check_batch(prefix, cfg, "prefix")
        beginnings = prefix.tokens_BT.shape[0]
        if not beginnings or rows % beginnings:
            raise InputError(f"prefix has {beginnings} rows; it must be a divisor of the {rows} rows of batch")
        check_cut(prefix, batch, cfg)
    return generate_program(
        for_cpu(params, rows),
        batch,
        cfg,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seeds_B=seeds_B,
        steer=steer,
        lora=lora,
        prefix=prefix,
    )


def _generate(
    params: Params,
    batch: Batch,
    cfg: ModelConfig,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds_B: Array | None = None,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
    prefix: Batch | None = None,
) -> Generated:
    begun = _begin(params, batch, cfg, max_new_tokens, seeds_B, steer, lora, prefix)
    return _advance(params, begun, cfg, max_new_tokens, temperature, top_p, lora).out


# The one compiled program behind `generate`, for callers that lower it or count how often it is compiled.
generate_program = OnMesh(jax.jit(_generate, static_argnames=("cfg", "max_new_tokens", "temperature", "top_p")))


def _checked(batch: Batch, cfg: ModelConfig, max_new_tokens: int, seeds_B: Array | None) -> int:
    """Number of rows of a batch that may be continued."""
    check_batch(batch, cfg)
    rows = batch.tokens_BT.shape[0]
    check_seeds(seeds_B, rows)
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    return rows


def stream(
    params: Params,
    batch: Batch,
    cfg: ModelConfig,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds_B: Array | None = None,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> Iterator[Generated]:
    """`generate`, yielding what there is after every CHUNK of tokens, as numpy arrays; the last is what it returns."""
    _checked(batch, cfg, max_new_tokens, seeds_B)
    params = for_cpu(params)  # with layers apart the first token would come seconds later, for their compilation
    state = _begin_jit(params, batch, cfg, max_new_tokens, seeds_B, steer, lora)
    done = False
    while not done:
        steps = jnp.int32(min(int(state.step) + CHUNK, max_new_tokens))
        state = _advance_jit(params, state, cfg, steps, temperature, top_p, lora)
        done = int(state.step) == max_new_tokens or bool(np.asarray(state.done_B).all())
        yield jax.tree.map(np.array, state.out)  # copies: the next step reuses the state's memory


def _contrast(
    params: Params, batch: Batch, cfg: ModelConfig, *, max_new_tokens: int, alpha: float, steer: Steer | None = None
) -> Generated:
    """Greedy answers to the first half of the rows, contrasted token by token with the second half.

    With l the logits of a row and l' those of its partner in the second half, both behind the answer so far, the next
    token is the largest of l + alpha * (l - l').

    Args:
      batch: B prompts and then their B partners.
      alpha: weight of the difference; 0 is `generate` of the first half.
      steer: guard of all 2 B rows.

    Returns:
      B answers. logprobs_BG are under the contrasted logits.
    """

    def contrasted(s: Decoding) -> Decoding:
        ours_BV, theirs_BV = jnp.split(s.logits_BV, 2)
        mixed_BV = ours_BV + alpha * (ours_BV - theirs_BV)
        return s.replace(logits_BV=jnp.concatenate([mixed_BV, mixed_BV]))

    def go_on(s: Decoding) -> Array:
        return (s.step < max_new_tokens) & ~s.done_B.all()

    begun = contrasted(_begin(params, batch, cfg, max_new_tokens, None, steer, None))
    out = jax.lax.while_loop(go_on, lambda s: contrasted(_step(params, s, cfg, 0.0, 1.0, None)), begun).out
    rows = batch.tokens_BT.shape[0] // 2
    gate_LB = None if out.gate_LB is None else out.gate_LB[:, :rows]
    return Generated(out.tokens_BG[:rows], out.lengths_B[:rows], out.logprobs_BG[:rows], gate_LB)


generate_contrasted = OnMesh(jax.jit(_contrast, static_argnames=("cfg", "max_new_tokens", "alpha")))


def can_share(cfg: ModelConfig, steer: Any) -> bool:
    """Whether the states of a prompt's beginning are the same whatever follows it, so that `prefix` may be used.

    They are not where a guard writes the beginning and its gate or shift is each row's own: the gate is decided at the
    prompt's last token. They are not either where rotary frequencies depend on the prompt's length (dynamic NTK).

    Args:
      steer: a `Steer`, None, or a function that makes a `Steer` for every batch and has an attribute `scope`.
    """
    if cfg.text.rope_scaling is not None and cfg.text.rope_scaling.kind == "dynamic":
        return False
    if callable(steer):
        return getattr(steer, "scope", None) in LATE
    return on_prefix(steer) is None or (not steer.gated and steer.shift.ndim == 2)


def _begin(
    params: Params,
    batch: Batch,
    cfg: ModelConfig,
    max_new_tokens: int,
    seeds_B: Array | None,
    steer: Steer | None,
    lora: dict[str, Any] | None,
    prefix: Batch | None = None,
) -> Decoding:
    """Prefill."""
    B, G = batch.tokens_BT.shape[0], max_new_tokens
    run = functools.partial(prefill, params, cfg=cfg, lora=lora)
    prompts_B, earlier = batch.lengths_B, ()
    if prefix is None:
        first = run(batch, steer=steer)
    else:
        offset_B = jnp.repeat(prefix.lengths_B, B // prefix.tokens_BT.shape[0])
        begun = run(prefix, steer=on_prefix(steer)).cache
        earlier, prompts_B = (readable(marked(begun, prefix, cfg, steer), cfg.text),), offset_B + prompts_B
        first = run(batch, steer=steer, past=earlier, offset_B=offset_B)
    shape = first.cache.k.shape
    empty = jnp.zeros((shape[0], B, G, *shape[3:]), first.cache.k.dtype)
    prompt = (*earlier, readable(marked(first.cache, batch, cfg, steer), cfg.text))
    places_BG = prompts_B[:, None] + jnp.arange(G, dtype=jnp.int32)[None]
    return Decoding(
        step=jnp.zeros((), jnp.int32),
        prompt=without_images(prompt, first.gate_LB) if hides_image(steer) else prompt,
        prompts_B=prompts_B,
        made=readable(KV(empty, empty, places_BG, jnp.zeros((B, G), bool)), cfg.text),
        logits_BV=logits_of(params, first.hidden_BTD[:, 0], cfg),
        done_B=jnp.zeros((B,), bool),
        keys_B=jax.vmap(jax.random.key)(jnp.zeros((B,), jnp.int32) if seeds_B is None else seeds_B),
        out=Generated(
            jnp.full((B, G), cfg.pad_id, jnp.int32),
            jnp.zeros((B,), jnp.int32),
            jnp.zeros((B, G), jnp.float32),
            None if steer is None else first.gate_LB,
        ),
        steer=while_decoding(steer, first.gate_LB),
    )


def prefill(params: Params, batch: Batch, cfg: ModelConfig, **options: Any) -> Output:
    """Keys, values and gates of the rows, and the hidden state [B, 1, D] of each one's last token."""
    B, T = batch.tokens_BT.shape
    if T >= LONG:
        return forward(params, batch, cfg, keep_cache=True, logits=False, last_only=True, **options)
    out = forward(params, batch, cfg, keep_cache=True, logits=False, **options)
    return out.replace(hidden_BTD=out.hidden_BTD[jnp.arange(B), batch.lengths_B - 1][:, None])


def marked(kv: KV, batch: Batch, cfg: ModelConfig, steer: Steer | None) -> KV:
    """Keys and values of a batch that say which of them are an image's, where `steer` may hide it."""
    return kv.replace(image_BS=image_tokens(batch, cfg)) if hides_image(steer) else kv


def _advance(
    params: Params,
    state: Decoding,
    cfg: ModelConfig,
    until: int | Array,
    temperature: float,
    top_p: float,
    lora: dict[str, Any] | None,
) -> Decoding:
    """Steps to token `until`, or until every row has ended."""

    def go_on(s: Decoding) -> Array:
        return (s.step < until) & ~s.done_B.all()

    def loop(s: Decoding) -> Decoding:
        return jax.lax.while_loop(go_on, lambda s: _step(params, s, cfg, temperature, top_p, lora), s)

    def loop_apart(s: Decoding) -> Decoding:
        end = loop(s.replace(prompt=tuple(map(apart, s.prompt)), made=apart(s.made)))
        made = (jnp.stack([layer.swapaxes(1, 2) for layer in x]) for x in (end.made.k, end.made.v))
        k, v = (x.astype(s.made.k.dtype) for x in made)
        return end.replace(prompt=s.prompt, made=end.made.replace(k=k, v=v))

    return jax.lax.platform_dependent(state, cpu=loop_apart, default=loop)


_begin_jit = OnMesh(jax.jit(_begin, static_argnames=("cfg", "max_new_tokens")))
_advance_jit = OnMesh(jax.jit(_advance, static_argnames=("cfg", "temperature", "top_p"), donate_argnames="state"))


def _step(
    params: Params, s: Decoding, cfg: ModelConfig, temperature: float, top_p: float, lora: dict[str, Any] | None
) -> Decoding:
    """One more token of every row that has not ended."""
    live = ~s.done_B
    token_B = pick(of_text(s.logits_BV, cfg), s.keys_B, s.step, temperature, top_p)
    logprob_B = jnp.take_along_axis(jax.nn.log_softmax(s.logits_BV), token_B[:, None], axis=1)[:, 0]
    ended = functools.reduce(jnp.logical_or, [token_B == e for e in cfg.eos_ids], jnp.zeros_like(live))
    token_B = jnp.where(live, token_B, cfg.pad_id)
    out = forward(
        params,
        Batch(token_B[:, None], jnp.ones_like(token_B)),
        cfg,
        past=(*s.prompt, s.made),
        offset_B=s.prompts_B + s.step,
        lora=lora,
        steer=s.steer,
        keep_cache=True,
        logits=False,
    )
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=s.step, axis=1)
    return s.replace(
        step=s.step + 1,
        made=_append(s.made, out.cache, s.step),
        logits_BV=logits_of(params, out.hidden_BTD[:, 0], cfg),
        done_B=s.done_B | ended,
        out=s.out.replace(
            tokens_BG=put(s.out.tokens_BG, token_B[:, None]),
            logprobs_BG=put(s.out.logprobs_BG, jnp.where(live, logprob_B, 0.0)[:, None]),
            lengths_B=s.out.lengths_B + live,
        ),
    )


def _append(made: KV, new: KV, step: Array) -> KV:
    """`made` with one token more, as stacks or apart."""
    if isinstance(made.k, tuple):
        new = apart(new)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=2)
    k, v = (jax.tree.map(put, old, one) for old, one in ((made.k, new.k), (made.v, new.v)))
    valid_BG = jax.lax.dynamic_update_slice_in_dim(made.valid_BS, new.valid_BS, step, axis=1)
    return made.replace(k=k, v=v, valid_BS=valid_BG)
