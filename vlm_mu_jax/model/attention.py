"""Attention over key/value segments, merged by log-sum-exp.

A segment is a run of keys and values with its own mask. A segment without a batch axis is shared by all rows (one
copy of an image and a question's start serves every candidate or shot); one with fewer rows than there are queries is
shared by groups of rows. Partial softmaxes over segments are merged in float32, which equals one softmax over their
concatenation.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

NEGATIVE = -1e30  # finite: a fully masked segment merges with weight 0 instead of NaN
SHARED_ROWS = 256  # queries at a time over a shared segment: their scores fit the cache of a CPU core


class Segment(NamedTuple):
    """Keys and values some queries may read.

    k, v: [B, S, K, H] (private to a row), [S, K, H] (shared by all rows), or [R, S, K, H] with R a divisor of B: row b
      reads what belongs to group b // (B / R).
    mask_BTS: True where query t may read key s; broadcastable over B and T. Of groups: [R, B / R * T, S], likewise.
    """

    k: Array
    v: Array
    mask_BTS: Array


class HeadsFirst(NamedTuple):
    """A segment whose k, v are [B, K, S, H] or [R, K, S, H]: products read them as they lie. Float32, since XLA on CPU
    has no bfloat16 product of this layout."""

    k: Array
    v: Array
    mask_BTS: Array


def attend(q_BTNH: Array, segments: list[Segment | HeadsFirst]) -> Array:
    """Softmax attention of all queries over all segments; grouped queries when K < N. Returns [B, T, N, H]."""
    B, T, N, H = q_BTNH.shape
    K = segments[0].k.shape[-3 if isinstance(segments[0], HeadsFirst) else -2]
    q = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
    parts = [_partial(q, segment) if segment.k.ndim == 4 else _shared(q, segment) for segment in segments]
    top = functools.reduce(jnp.maximum, [part.top for part in parts])
    shares = [jnp.exp(part.top - top) for part in parts]
    total = sum(share * part.total for share, part in zip(shares, parts, strict=True))
    out = sum(share[..., None] * part.out for share, part in zip(shares, parts, strict=True)) / total[..., None]
    return out.reshape(B, T, N, H).astype(q_BTNH.dtype)


class _Partial(NamedTuple):
    """Softmax over one segment before division, float32: out [B, T, K, G, H] = sum of exp(score - top) v over its keys,
    total [B, T, K, G] = sum of exp(score - top), top [B, T, K, G] = the highest score."""

    out: Array
    total: Array
    top: Array


def _partial(q_BTKGH: Array, segment: Segment | HeadsFirst) -> _Partial:
    B, T = q_BTKGH.shape[:2]
    keys = "bksh" if isinstance(segment, HeadsFirst) else "bskh"
    if isinstance(segment, HeadsFirst):
        q_BTKGH = q_BTKGH.astype(segment.k.dtype)
    q = q_BTKGH.reshape(segment.k.shape[0], -1, *q_BTKGH.shape[2:])  # the rows of a group are more queries of one row
    score = jnp.einsum(f"btkgh,{keys}->bkgts", q, segment.k, preferred_element_type=jnp.float32)
    weight, top = _weights(jnp.where(segment.mask_BTS[:, None, None], score, NEGATIVE))
    read = weight.astype(segment.v.dtype)
    # heads before queries: asked for the other order, einsum reads v as the left factor, several times slower on CPU
    out = jnp.einsum(f"bkgts,{keys}->bkgth", read, segment.v, preferred_element_type=jnp.float32)
    parts = _Partial(*(jnp.moveaxis(x, 3, 1) for x in (out, weight.sum(axis=-1), top)))
    return jax.tree.map(lambda x: x.reshape(B, T, *x.shape[2:]), parts)


def _weights(score: Array) -> tuple[Array, Array]:
    top = score.max(axis=-1)
    return jnp.exp(score - top[..., None]), top


def _shared(q_BTKGH: Array, segment: Segment) -> _Partial:
    """`_partial` over a shared segment, SHARED_ROWS queries at a time: only their scores exist at once.

    Step j takes rows j, j + steps, ...: rows that are split over devices in one piece each stay where they are.
    """
    B, T = q_BTKGH.shape[:2]
    steps = -(-B * T // SHARED_ROWS)
    rows = -(-B * T // steps)
    k_KSH, v_KSH = segment.k.swapaxes(0, 1), segment.v.swapaxes(0, 1)  # once, not in every step

    def split(x_BT: Array) -> Array:
        flat = x_BT.reshape(B * T, *x_BT.shape[2:])
        flat = jnp.pad(flat, ((0, steps * rows - B * T), *((0, 0),) * (flat.ndim - 1)))
        return flat.reshape(rows, steps, *flat.shape[1:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        """[steps, K, G, R, ...] -> [B, T, K, G, ...]"""
        flat = jnp.moveaxis(x, (3, 0), (0, 1)).reshape(rows * steps, *x.shape[1:3], *x.shape[4:])
        return flat[: B * T].reshape(B, T, *flat.shape[1:])

    def one(xs: tuple[Array, Array]) -> _Partial:
        q_KGRH, mask_RS = xs
        score = jnp.einsum("kgrh,ksh->kgrs", q_KGRH, k_KSH, preferred_element_type=jnp.float32)
        weight, top = _weights(jnp.where(mask_RS[None, None], score, NEGATIVE))
        read = weight.astype(v_KSH.dtype)
        out = jnp.einsum("kgrs,ksh->kgrh", read, v_KSH, preferred_element_type=jnp.float32)
        return _Partial(out, weight.sum(axis=-1), top)

    mask, q = segment.mask_BTS, split(q_BTKGH).transpose(0, 2, 3, 1, 4)
    if mask.shape[:2] == (1, 1):
        parts = jax.lax.map(lambda q_KGRH: one((q_KGRH, mask[0])), q)
    else:
        parts = jax.lax.map(one, (q, split(jnp.broadcast_to(mask, (B, T, mask.shape[-1])))))
    return jax.tree.map(join, parts)


def causal_mask(
    query_positions_BT: Array,
    key_positions_BS: Array,
    lengths_B: Array,
    window: int | Array | None = None,
    until_BT: Array | None = None,
) -> Array:
    """True where a query may read a key: inside the row's length and (if set) the sliding window, and not later than
    the query, or with `until_BT` at a position before that."""
    query, key = query_positions_BT[:, :, None], key_positions_BS[:, None, :]
    mask = key <= query if until_BT is None else key < until_BT[:, :, None]
    mask &= key < lengths_B[:, None, None]
    return mask if window is None else mask & (query - key < window)


def run_ends(image_BT: Array) -> Array:
    """Before which index the keys stand that a token reads where an image's tokens read each other both ways: for an
    image token the end of its run, for any other its own end. int32 [B, T]."""
    T = image_BT.shape[1]
    at_1T = jnp.arange(T, dtype=jnp.int32)[None]
    text_BT = jax.lax.cummin(jnp.where(image_BT, T, at_1T), axis=1, reverse=True)
    return jnp.where(image_BT, text_BT, at_1T + 1)
