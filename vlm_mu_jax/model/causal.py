"""Causal self-attention in blocks of queries, with a gradient that stores no weights.

Block i reads the keys up to its own end only, so that the masked upper triangle is neither computed nor stored, and
the weights [B, N, T, S] never exist at once: one block's are made, used and dropped. The backward pass makes them again
from the log-sum-exp of each query (Dao et al. 2022, arXiv 2205.14135, algorithms 1 and 4 without their hardware part).

It stands here because on a CPU `jax.nn.dot_product_attention` takes three times as long for the gradient and twice the
memory: rows `forward` and `gradient` of `bin/bench attention` (docs/performance.md).
"""

import functools

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
) -> Array:
    """Softmax attention of right-padded rows over themselves; grouped queries when K < N. [B, T, N, H] in q's dtype.

    Args:
      lengths_B: real tokens per row; keys beyond are not read. What padded queries return has no meaning.
      window: a query reads the last `window` keys up to its own, all of them when None.
      reach: the same as a number that the program reads, for layers of one scan that differ in it. No key is skipped
        then, only masked.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    out_BKGTH = _attend(q_BKGTH, k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2), lengths_B, reach, window)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def blocks(T: int, window: int | None) -> list[tuple[int, int, int]]:
    """(first key, first query, end) of every block: its queries are first query..end, its keys first key..end."""
    count = min(-(-T // BLOCK), MOST_BLOCKS)
    size = -(-T // (16 * count)) * 16
    starts = range(0, T, size)
    return [(0 if window is None else max(q - window + 1, 0), q, min(q + size, T)) for q in starts]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q_BKGTH: Array, k_BKSH: Array, v_BKSH: Array, lengths_B: Array, reach: Array | None, window: int | None
) -> Array:
    return _forward(q_BKGTH, k_BKSH, v_BKSH, lengths_B, reach, window)[0]


def _forward(
    q: Array, k: Array, v: Array, lengths_B: Array, reach: Array | None, window: int | None
) -> tuple[Array, tuple[Array | None, ...]]:
    outs, logsumexps = [], []
    for block in blocks(q.shape[3], window):
        score = _scores(q, k, lengths_B, reach, window, block)
        top = score.max(axis=-1, keepdims=True)
        weight = jnp.exp(score - top)
        total = weight.sum(axis=-1, keepdims=True)
        read = _einsum("bkgts,bksh->bkgth", weight.astype(v.dtype), _keys(v, block))
        outs.append((read / total).astype(q.dtype))
        logsumexps.append(top + jnp.log(total))
    # Named here and not by the caller: under the remat policy attn_out both are what the backward pass reads.
    out = checkpoint_name(jnp.concatenate(outs, axis=3), "attn_out")
    logsumexp = checkpoint_name(jnp.concatenate(logsumexps, axis=3), "attn_out")
    return out, (q, k, v, lengths_B, reach, out, logsumexp)


def _backward(window: int | None, saved: tuple[Array | None, ...], dout: Array) -> tuple[Array | None, ...]:
    q, k, v, lengths_B, reach, out, logsumexp = saved
    inner = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    # Sums over queries are made as [H, S]: so the large factor, [queries, keys], is read as it lies in memory.
    dk_BKHS, dv_BKHS = (jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (k, v))
    dqs = []
    for block in blocks(q.shape[3], window):
        first, start, end = block
        d = dout[..., start:end, :]
        weight = jnp.exp(_scores(q, k, lengths_B, reach, window, block) - logsumexp[..., start:end, :])
        dweight = _einsum("bkgth,bksh->bkgts", d, _keys(v, block))
        dscore = (weight * (dweight - inner[..., start:end, :])).astype(q.dtype)
        dqs.append(_einsum("bkgts,bksh->bkgth", dscore, _keys(k, block)))
        dk_part = _einsum("bkgth,bkgts->bkhs", q[..., start:end, :], dscore)
        dv_part = _einsum("bkgth,bkgts->bkhs", d, weight.astype(d.dtype))
        dk_BKHS, dv_BKHS = dk_BKHS.at[..., first:end].add(dk_part), dv_BKHS.at[..., first:end].add(dv_part)
    dq = jnp.concatenate(dqs, axis=3).astype(q.dtype)
    return dq, dk_BKHS.swapaxes(2, 3).astype(k.dtype), dv_BKHS.swapaxes(2, 3).astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _einsum(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


def _keys(x_BKSH: Array, block: tuple[int, int, int]) -> Array:
    return x_BKSH[:, :, block[0] : block[2]]


def _scores(
    q: Array,
    k: Array,
    lengths_B: Array,
    reach: Array | None,
    window: int | None,
    block: tuple[int, int, int],
) -> Array:
    """Masked float32 scores of one block [B, K, G, queries, keys]."""
    first, start, end = block
    query_T1, key_1S = jnp.arange(start, end)[:, None], jnp.arange(first, end)[None]
    mask_TS = key_1S <= query_T1 if window is None else (key_1S <= query_T1) & (query_T1 - key_1S < window)
    if reach is not None:
        mask_TS &= query_T1 - key_1S < reach
    mask_BTS = mask_TS[None] & (key_1S[None] < lengths_B[:, None, None])
    score = _einsum("bkgth,bksh->bkgts", q[..., start:end, :], _keys(k, block))
    return jnp.where(mask_BTS[:, None, None], score, NEGATIVE)
