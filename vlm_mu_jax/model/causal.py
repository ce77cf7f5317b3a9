"""Causal self-attention in blocks of queries, with a gradient that stores no weights.

Block i reads the keys up to its own end only (where an image's tokens read each other both ways, up to an image more),
so that the masked upper triangle is neither computed nor stored, and the weights [B, N, T, S] never exist at once: one
block's are made, used and dropped. The backward pass makes them again
from the log-sum-exp of each query (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4 without their hardware part).

It stands here because on a CPU `jax.nn.dot_product_attention` takes three times as long for the gradient and twice the
memory: rows `forward` and `gradient` of `bin/bench attention` (docs/performance.md).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from vlm_mu_jax.model.attention import NEGATIVE

BLOCK, MOST_BLOCKS = 128, 16  # queries per block; blocks are unrolled, so a long row gets larger ones


def causal_attention(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    lengths_B: Array,
    window: int | None = None,
    reach: Array | None = None,
    until_BT: Array | None = None,
    run: int = 1,
) -> Array:
    """Softmax attention of right-padded rows over themselves; grouped queries when K < N. [B, T, N, H] in q's dtype.

    Args:
      lengths_B: real tokens per row; keys beyond are not read. What padded queries return has no meaning.
      window: a query reads the last `window` keys up to its own, all of them when None.
      reach: the same as a number that the program reads, for layers of one scan that differ in it. No key is skipped
        then, only masked.
      until_BT: a query reads keys before this index, later ones than its own too; `attention.run_ends` makes it.
      run: until_BT is at most so far beyond a query.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    keys = _Keys(lengths_B, reach, until_BT)
    out_BKGTH = _attend(q_BKGTH, k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2), keys, (window, run))
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


class _Keys(NamedTuple):
    """What the program reads about the keys of each query; arguments of `causal_attention`."""

    lengths_B: Array
    reach: Array | None
    until_BT: Array | None


class QueryBlock(NamedTuple):
    """Queries start..end - 1, and the keys first..last - 1 that one of them may read."""

    first: int
    start: int
    end: int
    last: int


def blocks(T: int, window: int | None, run: int = 1) -> list[QueryBlock]:
    """All queries. window, run: as for `causal_attention`."""
    count = min(-(-T // BLOCK), MOST_BLOCKS)
    size = -(-T // (16 * count)) * 16
    starts = range(0, T, size)
    firsts = (0 if window is None else max(q - window + 1, 0) for q in starts)
    return [QueryBlock(f, q, min(q + size, T), min(q + size + run - 1, T)) for f, q in zip(firsts, starts, strict=True)]


_Fixed = tuple[int | None, int]  # window and run


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BKGTH: Array, k_BKSH: Array, v_BKSH: Array, keys: _Keys, fixed: _Fixed) -> Array:
    return _forward(q_BKGTH, k_BKSH, v_BKSH, keys, fixed)[0]


def _forward(q: Array, k: Array, v: Array, keys: _Keys, fixed: _Fixed) -> tuple[Array, tuple[Any, ...]]:
    outs, logsumexps = [], []
    for block in blocks(q.shape[3], *fixed):
        score = _scores(q, k, keys, fixed[0], block)
        top = score.max(axis=-1, keepdims=True)
        weight = jnp.exp(score - top)
        total = weight.sum(axis=-1, keepdims=True)
        read = _einsum("bkgts,bksh->bkgth", weight.astype(v.dtype), _read(v, block))
        outs.append((read / total).astype(q.dtype))
        logsumexps.append(top + jnp.log(total))
    # Named here and not by the caller: under the remat policy attn_out both are what the backward pass reads.
    out = checkpoint_name(jnp.concatenate(outs, axis=3), "attn_out")
    logsumexp = checkpoint_name(jnp.concatenate(logsumexps, axis=3), "attn_out")
    return out, (q, k, v, keys, out, logsumexp)


def _backward(fixed: _Fixed, saved: tuple[Any, ...], dout: Array) -> tuple[Array | None, ...]:
    q, k, v, keys, out, logsumexp = saved
    inner = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    # Sums over queries are made as [H, S]: so the large factor, [queries, keys], is read as it lies in memory.
    dk_BKHS, dv_BKHS = (jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (k, v))
    dqs = []
    for block in blocks(q.shape[3], *fixed):
        first, start, end, last = block
        d = dout[..., start:end, :]
        weight = jnp.exp(_scores(q, k, keys, fixed[0], block) - logsumexp[..., start:end, :])
        dweight = _einsum("bkgth,bksh->bkgts", d, _read(v, block))
        dscore = (weight * (dweight - inner[..., start:end, :])).astype(q.dtype)
        dqs.append(_einsum("bkgts,bksh->bkgth", dscore, _read(k, block)))
        dk_part = _einsum("bkgth,bkgts->bkhs", q[..., start:end, :], dscore)
        dv_part = _einsum("bkgth,bkgts->bkhs", d, weight.astype(d.dtype))
        dk_BKHS, dv_BKHS = dk_BKHS.at[..., first:last].add(dk_part), dv_BKHS.at[..., first:last].add(dv_part)
    dq = jnp.concatenate(dqs, axis=3).astype(q.dtype)
    return dq, dk_BKHS.swapaxes(2, 3).astype(k.dtype), dv_BKHS.swapaxes(2, 3).astype(v.dtype), None


_attend.defvjp(_forward, _backward)


def _einsum(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


def _read(x_BKSH: Array, block: QueryBlock) -> Array:
    return x_BKSH[:, :, block.first : block.last]


def _scores(q: Array, k: Array, keys: _Keys, window: int | None, block: QueryBlock) -> Array:
    """Masked float32 scores of one block [B, K, G, queries, keys]."""
    first, start, end, last = block
    query_T1, key_1S = jnp.arange(start, end)[:, None], jnp.arange(first, last)[None]
    near_TS = jnp.ones((1, 1), bool) if window is None else query_T1 - key_1S < window
    if keys.reach is not None:
        near_TS &= query_T1 - key_1S < keys.reach
    if keys.until_BT is None:
        mask_BTS = (near_TS & (key_1S <= query_T1))[None]
    else:
        mask_BTS = near_TS[None] & (key_1S[None] < keys.until_BT[:, start:end, None])
    mask_BTS &= key_1S[None] < keys.lengths_B[:, None, None]
    score = _einsum("bkgth,bksh->bkgts", q[..., start:end, :], _read(k, block))
    return jnp.where(mask_BTS[:, None, None], score, NEGATIVE)
