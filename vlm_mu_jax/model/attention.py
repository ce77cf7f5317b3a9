"""Attention over key/value segments, merged by log-sum-exp.

A segment is a run of keys and values with its own mask. A segment without a batch axis is shared by all rows (one
copy of an image and a question's start serves every candidate or shot). Partial softmaxes over segments are merged
in float32, which equals one softmax over their concatenation.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

NEGATIVE = -1e30  # finite: a fully masked segment merges with weight 0 instead of NaN


class Segment(NamedTuple):
    """Keys and values some queries may read.

    k, v: [B, S, K, H] (private to a row) or [S, K, H] (shared by all rows).
    mask_BTS: True where query t may read key s; broadcastable over B and T.
    """

    k: Array
    v: Array
    mask_BTS: Array


def attend(q_BTNH: Array, segments: list[Segment]) -> Array:
    """Softmax attention of all queries over all segments; grouped queries when K < N. Returns [B, T, N, H]."""
    B, T, N, H = q_BTNH.shape
    K = segments[0].k.shape[-2]
    q = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
    scores = [_scores(q, segment) for segment in segments]
    top = scores[0].max(axis=-1, keepdims=True)
    for score in scores[1:]:
        top = jnp.maximum(top, score.max(axis=-1, keepdims=True))
    total, out = 0.0, 0.0
    for score, segment in zip(scores, segments, strict=True):
        weight = jnp.exp(score - top)
        total = total + weight.sum(axis=-1)
        out = out + _read(weight.astype(segment.v.dtype), segment.v)
    out = out / total.transpose(0, 3, 1, 2)[..., None]
    return out.reshape(B, T, N, H).astype(q_BTNH.dtype)


def _scores(q_BTKGH: Array, segment: Segment) -> Array:
    """Masked float32 scores [B, K, G, T, S]."""
    keys = "bskh" if segment.k.ndim == 4 else "skh"
    score = jnp.einsum(f"btkgh,{keys}->bkgts", q_BTKGH, segment.k, preferred_element_type=jnp.float32)
    return jnp.where(segment.mask_BTS[:, None, None], score, NEGATIVE)


def _read(weight_BKGTS: Array, v: Array) -> Array:
    values = "bskh" if v.ndim == 4 else "skh"
    return jnp.einsum(f"bkgts,{values}->btkgh", weight_BKGTS, v, preferred_element_type=jnp.float32)


def causal_mask(
    query_positions_BT: Array, key_positions_BS: Array, lengths_B: Array, window: int | None = None
) -> Array:
    """True where a key is not later than the query, inside the row's length and (if set) the sliding window."""
    query, key = query_positions_BT[:, :, None], key_positions_BS[:, None, :]
    mask = (key <= query) & (key < lengths_B[:, None, None])
    return mask if window is None else mask & (query - key < window)
