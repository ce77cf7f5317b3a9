"""The compiled programs of the server: a prompt's prefill, its place in the running batch, one token of every row.

The running batch has one of a few numbers of rows, and room for one of a few numbers of tokens in each. A row that ends
leaves its place to the next prompt. Which rows are live, how long they are and how they sample is data, so that one
program makes the next token of every row whatever joined or left.

On a mesh the programs run with it as the ambient one. The rows of the running batch are split over data and fsdp, and
the heads of its keys and values over tensor; a prompt's prefill has one row, which every data shard runs.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from vlm_mu_jax.model.cache import KV, readable, rotary_start
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.generate import marked, prefill
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.sampling import likeliest, nucleus, of_text
from vlm_mu_jax.model.steer import Steer, hides_image, on_prefix, while_decoding
from vlm_mu_jax.model.vlm import Batch, forward, logits_of
from vlm_mu_jax.parallel.activations import row_axes

TOP = 20  # likeliest tokens that are reported with their log-probabilities, at most


@flax.struct.dataclass
class RowSampling:
    """How the next token of each row is picked. Rows are independent: a row's draw depends on its own fields alone.

    temperature_B: 0 is greedy. top_p_B: mass of the nucleus. seeds_B: of the draws. steps_B: tokens that the row has
    made already. want_top: whether any row reports its likeliest tokens.
    """

    temperature_B: Array
    top_p_B: Array
    seeds_B: Array
    steps_B: Array
    want_top: Array


@flax.struct.dataclass
class NextTokens:
    """Next tokens. logprobs_B: under the model's own distribution (temperature 1), in nats. top_BK, top_logprobs_BK:
    the K likeliest tokens, zeros unless they are wanted."""

    tokens_B: Array
    logprobs_B: Array
    top_BK: Array
    top_logprobs_BK: Array


@flax.struct.dataclass
class Begun:
    """A prompt that has run. parts: key/value segments of one row, each from position starts_N on. logits_1V: of its
    next token. steer: what steers the tokens to come, of one row. blind_1: whether they leave the images
    unread; None where no guard hides any."""

    parts: tuple[KV, ...]
    starts_N: Array
    logits_1V: Array
    steer: Steer | None
    blind_1: Array | None = None


@flax.struct.dataclass
class Running:
    """The running batch. k, v: keys and values, [L, B, S, K, H] or L arrays [B, K, S, H] (see `cache.apart`).
    steer: what steers each row, or None. shift_B: rotary position less token index of what a row makes (0 but for
    three-axis positions). hidden_BS: tokens that a row's later ones do not read; None where no guard hides images."""

    k: Any
    v: Any
    steer: Steer | None
    shift_B: Array
    hidden_BS: Array | None = None

    @property
    def rows(self) -> int:
        """B, empty rows included."""
        return self.k[0].shape[0] if isinstance(self.k, tuple) else self.k.shape[1]

    @property
    def width(self) -> int:
        """S, the tokens that a row has room for."""
        return self.k[0].shape[2] if isinstance(self.k, tuple) else self.k.shape[2]


@functools.partial(jax.jit, static_argnames="cfg")
def begin(
    params: Params, batch: Batch, cfg: ModelConfig, steer: Steer | None, prefix: KV | None, start_1: Array
) -> Begun:
    """Runs a prompt, or what follows `prefix`, a beginning of start_1 tokens that has run. Batches of one row."""
    past = () if prefix is None else (readable(prefix, cfg.text),)
    first = prefill(params, batch, cfg=cfg, steer=steer, past=past, offset_B=start_1)
    parts, starts = (marked(first.cache, batch, cfg, steer),), start_1
    if prefix is not None:
        parts, starts = (prefix, *parts), jnp.concatenate([jnp.zeros_like(start_1), start_1])
    logits_1V = logits_of(params, first.hidden_BTD[:, 0], cfg)
    blind_1 = first.gate_LB.max(axis=0) > 0 if hides_image(steer) else None
    return Begun(parts, starts, logits_1V, while_decoding(steer, first.gate_LB), blind_1)


@functools.partial(jax.jit, static_argnames="cfg")
def begin_prefix(params: Params, batch: Batch, cfg: ModelConfig, steer: Steer | None) -> KV:
    """Keys and values of the beginning of prompts: an image and what stands before it."""
    made = forward(params, batch, cfg, steer=on_prefix(steer), keep_cache=True, logits=False).cache
    return marked(made, batch, cfg, steer)


@functools.partial(jax.jit, static_argnames="cfg")
def choose(logits_BV: Array, how: RowSampling, cfg: ModelConfig) -> NextTokens:
    """Picks a token for every row, as `generate` picks it."""
    text_BV = of_text(logits_BV, cfg)
    greedy_B = likeliest(text_BV)
    tokens_B = jax.lax.cond((how.temperature_B > 0).any(), _drawn, lambda *_: greedy_B, text_BV, greedy_B, how)
    scores_BV = jax.nn.log_softmax(logits_BV)
    logprobs_B = jnp.take_along_axis(scores_BV, tokens_B[:, None], axis=1)[:, 0]
    K = min(TOP, logits_BV.shape[1])

    def top(scores_BV: Array) -> tuple[Array, Array]:
        values_BK, ids_BK = jax.lax.top_k(scores_BV, K)
        return ids_BK.astype(jnp.int32), values_BK

    def none(scores_BV: Array) -> tuple[Array, Array]:
        shape = (scores_BV.shape[0], K)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, scores_BV.dtype)

    return NextTokens(tokens_B, logprobs_B, *jax.lax.cond(how.want_top, top, none, scores_BV))


def _drawn(logits_BV: Array, greedy_B: Array, how: RowSampling) -> Array:
    """One draw per row from the smallest set of tokens whose probability reaches top_p; greedy rows stay greedy."""
    warm_B = jnp.where(how.temperature_B > 0, how.temperature_B, 1.0)
    logits_BV = logits_BV / warm_B[:, None]
    logits_BV = nucleus(logits_BV, how.top_p_B[:, None])
    keys_B = jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(how.seeds_B, how.steps_B)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
    return jnp.where(how.temperature_B > 0, drawn_B, greedy_B)


def empty(begun: Begun, rows: int, width: int) -> Running:
    """A running batch without content, shaped and steered like this prompt."""
    L, _, _, K, H = begun.parts[0].k.shape
    dtype = begun.parts[0].k.dtype
    if jax.default_backend() == "cpu":
        k, v = (tuple(jnp.zeros((rows, K, width, H), jnp.float32) for _ in range(L)) for _ in range(2))
    else:
        k, v = (jnp.zeros((L, rows, width, K, H), dtype) for _ in range(2))
    steer = begun.steer
    if steer is not None:
        widened = {"gate_LB": jnp.zeros((L, rows), steer.gate_LB.dtype)}
        if steer.shift.ndim == 3:
            widened["shift"] = jnp.zeros((L, rows, steer.shift.shape[2]), steer.shift.dtype)
        steer = steer.replace(**widened)
    hidden_BS = None if begun.blind_1 is None else jnp.zeros((rows, width), bool)
    return _held(Running(k, v, steer, jnp.zeros((rows,), jnp.int32), hidden_BS))


def _held(running: Running) -> Running:
    """The same batch where the ambient mesh keeps it, so that every program gives it back as the next one takes it."""
    if jax.sharding.get_abstract_mesh().empty:
        return running
    rows = row_axes(running.rows)

    def hold(x: Array, *axes: Any) -> Array:
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))

    axes = (rows, "tensor") if isinstance(running.k, tuple) else (None, rows, None, "tensor")
    k, v = jax.tree.map(lambda x: hold(x, *axes), (running.k, running.v))
    steer = running.steer
    if steer is not None:
        own = {"gate_LB": hold(steer.gate_LB, None, rows)}
        if steer.shift.ndim == 3:
            own["shift"] = hold(steer.shift, None, rows)
        steer = steer.replace(**own)
    hidden_BS = None if running.hidden_BS is None else hold(running.hidden_BS, rows, None)
    return Running(k, v, steer, hold(running.shift_B, rows), hidden_BS)


@functools.partial(jax.jit, static_argnames="width")
def rearranged(running: Running, rows_R: Array, width: int) -> Running:
    """A running batch of these rows of the old one, in this order, with room for `width` tokens each. Rows beyond the
    old ones hold nothing."""

    def take(x: Array, rows_axis: int, width_axis: int | None) -> Array:
        x = jnp.take(x, rows_R, axis=rows_axis, mode="clip")
        if width_axis is None or x.shape[width_axis] == width:
            return x
        return jnp.pad(x, [(0, width - n if axis == width_axis else 0) for axis, n in enumerate(x.shape)])

    apart, steer = isinstance(running.k, tuple), running.steer
    k, v = (jax.tree.map(lambda x: take(x, 0 if apart else 1, 2), kv) for kv in (running.k, running.v))
    if steer is not None:
        own = {"gate_LB": take(steer.gate_LB, 1, None)}
        if steer.shift.ndim == 3:
            own["shift"] = take(steer.shift, 1, None)
        steer = steer.replace(**own)
    hidden_BS = None if running.hidden_BS is None else take(running.hidden_BS, 0, 1)
    return _held(Running(k, v, steer, take(running.shift_B, 0, None), hidden_BS))


@functools.partial(jax.jit, donate_argnames="running")
def join(running: Running, begun: Begun, row: Array) -> Running:
    """Puts a prompt in the place of a row."""
    k, v = running.k, running.v
    for part, start in zip(begun.parts, begun.starts_N, strict=True):
        k, v = (_put(old, new, row, start) for old, new in ((k, part.k), (v, part.v)))
    steer = running.steer
    if steer is not None:
        own = {"gate_LB": steer.gate_LB.at[:, row].set(begun.steer.gate_LB[:, 0])}
        if steer.shift.ndim == 3:
            own["shift"] = steer.shift.at[:, row].set(begun.steer.shift[:, 0])
        steer = steer.replace(**own)
    shift_1 = rotary_start(begun.parts, jnp.zeros((1,), jnp.int32))
    hidden_BS = running.hidden_BS
    if hidden_BS is not None:
        hidden_BS = hidden_BS.at[row].set(False)
        for part, start in zip(begun.parts, begun.starts_N, strict=True):
            hidden_BS = jax.lax.dynamic_update_slice(hidden_BS, part.image_BS & begun.blind_1[:, None], (row, start))
    return _held(Running(k, v, steer, running.shift_B.at[row].set(shift_1[0]), hidden_BS))


def _put(old: Any, new_L1TKH: Array, row: Array, start: Array) -> Any:
    """Keys or values with those of one row from `start` on."""
    if not isinstance(old, tuple):
        return jax.lax.dynamic_update_slice(old, new_L1TKH, (0, row, start, 0, 0))
    heads_first = (layer.swapaxes(1, 2) for layer in new_L1TKH.astype(jnp.float32))
    pairs = zip(old, heads_first, strict=True)
    return tuple(jax.lax.dynamic_update_slice(layer, new, (row, 0, start, 0)) for layer, new in pairs)


@functools.partial(jax.jit, static_argnames="cfg", donate_argnames="running")
def step(
    params: Params, running: Running, tokens_B: Array, lengths_B: Array, how: RowSampling, cfg: ModelConfig
) -> tuple[Running, NextTokens]:
    """Runs the token that each row made last, and picks the next.

    Args:
      tokens_B: last tokens, not in the cache yet.
      lengths_B: tokens of each row in the cache. Rows that are not live have 0; what they make means nothing.
    """
    B, S = len(tokens_B), running.width
    places_BS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32)[None], (B, S))
    shift_BS = jnp.zeros_like(places_BS).at[:, 0].set(running.shift_B) if cfg.text.rope_axes else None
    cached_BS = places_BS < lengths_B[:, None]
    readable_BS = cached_BS if running.hidden_BS is None else cached_BS & ~running.hidden_BS
    past = readable(KV(running.k, running.v, places_BS, readable_BS, shift_BS), cfg.text)
    out = forward(
        params,
        Batch(tokens_B[:, None], jnp.ones_like(tokens_B)),
        cfg,
        past=(past,),
        offset_B=lengths_B,
        steer=running.steer,
        keep_cache=True,
        logits=False,
    )
    k, v = (_append(old, new, lengths_B) for old, new in ((running.k, out.cache.k), (running.v, out.cache.v)))
    chosen = choose(logits_of(params, out.hidden_BTD[:, 0], cfg), how, cfg)
    return _held(running.replace(k=k, v=v)), chosen


def _append(old: Any, new_LB1KH: Array, lengths_B: Array) -> Any:
    """Keys or values with one token more in every row."""
    rows = jnp.arange(len(lengths_B))
    if not isinstance(old, tuple):
        return old.at[:, rows, lengths_B].set(new_LB1KH[:, :, 0])
    pairs = zip(old, new_LB1KH.astype(jnp.float32), strict=True)
    return tuple(layer.at[rows, :, lengths_B].set(new[:, 0]) for layer, new in pairs)
