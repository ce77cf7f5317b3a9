"""Attention over segments equals one softmax over their concatenation."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.model import attention
from vlm_mu_jax.model.attention import Segment, causal_mask

attend = jax.jit(attention.attend)
B, T, N, K, H = 2, 3, 4, 2, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # sums of a few products in float32, in another order


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def segment(S, seed=0, shared=False, mask=None):
    lead = () if shared else (B,)
    mask = np.random.default_rng(seed).random((B, T, S)) < 0.7 if mask is None else mask
    return Segment(
        jnp.asarray(draw(*lead, S, K, H, seed=seed)), jnp.asarray(draw(*lead, S, K, H, seed=seed + 100)), mask
    )


def by_hand(q, segments):
    """float64 softmax over all allowed keys, head by head; a head reads key head n // (N / K)."""
    out = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        keys, values = [], []
        for one in segments:
            k, v = (np.asarray(x if x.ndim == 3 else x[b], np.float64) for x in (one.k, one.v))
            allowed = np.broadcast_to(one.mask_BTS, (B, T, k.shape[0]))[b, t]
            keys.append(k[allowed, n // (N // K)])
            values.append(v[allowed, n // (N // K)])
        keys, values = np.concatenate(keys), np.concatenate(values)
        score = keys @ q[b, t, n] / np.sqrt(H)
        weight = np.exp(score - score.max())
        out[b, t, n] = weight @ values / weight.sum()
    return out


@hypothesis.given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 9), data=st.data())
@hypothesis.settings(max_examples=10)
def test_segments_equal_one_softmax_over_all_their_keys(sizes, seed, data):
    shared = [data.draw(st.booleans()) for _ in sizes]
    segments = [segment(S, seed + i, shared=one) for i, (S, one) in enumerate(zip(sizes, shared, strict=True))]
    segments.append(segment(1, seed + 50, mask=np.ones((1, 1, 1), bool)))  # every query may read something
    q = draw(B, T, N, H, seed=seed)
    np.testing.assert_allclose(attend(jnp.asarray(q), segments), by_hand(q, segments), **CLOSE)


def test_a_shared_segment_equals_private_copies():
    q, own, shared = draw(B, T, N, H), segment(4, seed=1), segment(5, seed=2, shared=True)
    copies = Segment(*(jnp.broadcast_to(x, (B, *x.shape)) for x in shared[:2]), shared.mask_BTS)
    np.testing.assert_allclose(attend(q, [shared, own]), attend(q, [copies, own]), **CLOSE)


def test_merged_segments_equal_their_concatenation_in_any_order():
    q, parts = draw(B, T, N, H), [segment(S, seed=S) for S in (2, 5, 3)]
    parts.append(segment(1, seed=9, mask=np.ones((B, T, 1), bool)))
    joined = Segment(*(jnp.concatenate([p[i] for p in parts], axis=axis) for i, axis in ((0, 1), (1, 1), (2, 2))))
    want = attend(q, [joined])
    np.testing.assert_allclose(attend(q, parts), want, **CLOSE)
    np.testing.assert_allclose(attend(q, parts[::-1]), want, **CLOSE)


def test_a_fully_masked_segment_has_weight_zero():
    q, own = draw(B, T, N, H), segment(3, mask=np.ones((B, T, 3), bool))
    nothing = segment(4, seed=5, mask=np.zeros((B, T, 4), bool))
    want = attend(q, [own])
    for segments in ([own, nothing], [nothing, own], [nothing, own, nothing]):
        np.testing.assert_array_equal(attend(q, segments), want)


def test_a_query_that_may_read_nothing_gives_no_nan():
    q = draw(B, T, N, H)
    assert np.isfinite(attend(q, [segment(4, mask=np.zeros((B, T, 4), bool))])).all()


def test_huge_scores_do_not_overflow():
    q = 1e4 * draw(B, T, N, H)
    segments = [segment(3, mask=np.ones((1, 1, 3), bool)), segment(2, seed=1, mask=np.ones((1, 1, 2), bool))]
    np.testing.assert_allclose(attend(jnp.asarray(q), segments), by_hand(q, segments), rtol=1e-3, atol=1e-3)


def test_low_precision_keys_are_summed_in_float32():
    q, one = draw(B, T, N, H), segment(200, mask=np.ones((1, 1, 200), bool))
    low = Segment(one.k.astype(jnp.bfloat16), one.v.astype(jnp.bfloat16), one.mask_BTS)
    got = attend(jnp.asarray(q, jnp.bfloat16), [low])
    assert got.dtype == jnp.bfloat16
    exact = by_hand(np.asarray(jnp.asarray(q, jnp.bfloat16), np.float32), [low])
    # weights and the result are rounded to 8 bits; a sum in bfloat16 would be off by tens of roundings
    np.testing.assert_allclose(np.asarray(got, np.float32), exact, rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_the_causal_mask_says_what_it_says(window):
    positions, lengths = jnp.arange(6)[None] + jnp.array([[0], [4]]), jnp.array([6, 7])
    mask = np.asarray(causal_mask(positions, positions, lengths, window))
    for b, t, s in np.ndindex(2, 6, 6):
        query, key = int(positions[b, t]), int(positions[b, s])
        assert mask[b, t, s] == (key <= query and key < lengths[b] and (window is None or query - key < window))
