"""Causal attention in blocks equals the plain softmax, its gradient too, and keeps no weights for the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.model import causal
from vlm_mu_jax.model.attention import Segment, attend, causal_mask, run_ends

B, N, K, H = 2, 4, 2, 8
SHAPES = [(1, None), (7, None), (40, None), (40, 5), (33, 30)]  # row length, window


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(causal, "BLOCK", 16)


def draw(T, dtype=jnp.float32):
    rng = np.random.default_rng(T)
    q, k, v, g = (jnp.asarray(rng.normal(size=(B, T, n, H)), dtype) for n in (N, K, K, N))
    lengths = jnp.asarray([T, max(T - 3, 1)], jnp.int32)
    real_BT11 = (jnp.arange(T)[None] < lengths[:, None])[:, :, None, None]
    return q, k, v, jnp.where(real_BT11, g, 0), lengths  # what padded queries return has no meaning


def plain(q, k, v, lengths, window):
    positions = jnp.broadcast_to(jnp.arange(q.shape[1], dtype=jnp.int32)[None], q.shape[:2])
    return attend(q, [Segment(k, v, causal_mask(positions, positions, lengths, window))])


def value_and_gradients(attention, T, window):
    q, k, v, g, lengths = draw(T)
    return jax.jit(jax.value_and_grad(lambda q, k, v: (attention(q, k, v, lengths, window) * g).sum(), (0, 1, 2)))(
        q, k, v
    )


@pytest.mark.parametrize(("T", "window"), SHAPES)
def test_values_and_gradients_are_those_of_one_softmax(T, window):
    got, got_gradients = value_and_gradients(causal.causal_attention, T, window)
    want, want_gradients = value_and_gradients(plain, T, window)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for one, other in zip(got_gradients, want_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reach", [5, 2**30])
def test_a_window_that_the_program_reads_equals_one_that_it_is_compiled_for(reach):
    """Layers of one scan may differ in it; a width beyond the row is no window."""

    def read(q, k, v, lengths, width):
        return causal.causal_attention(q, k, v, lengths, reach=jnp.int32(width))

    got = value_and_gradients(read, 40, reach)
    want = value_and_gradients(causal.causal_attention, 40, reach if reach < 40 else None)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    q, k, v, _, lengths = draw(20, jnp.bfloat16)
    out = causal.causal_attention(q, k, v, lengths)
    assert out.dtype == jnp.bfloat16
    exact = causal.causal_attention(*(x.astype(jnp.float32) for x in (q, k, v)), lengths)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.03)  # weights and values rounded to 8 bits


def test_nothing_of_the_size_of_the_weights_is_kept_for_the_backward_pass():
    q, k, v, _, lengths = draw(40)
    _, back = jax.vjp(lambda q, k, v: causal.causal_attention(q, k, v, lengths), q, k, v)
    assert max(leaf.size for leaf in jax.tree.leaves(back)) <= q.size < B * N * 40 * 40


@pytest.mark.parametrize("T", [1, 16, 17, 40, 5000])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("run", [1, 20])
def test_blocks_cover_every_query_once_and_every_key_it_may_read(T, window, run):
    found = causal.blocks(T, window, run)
    assert [q for block in found for q in range(block.start, block.end)] == list(range(T))
    assert len(found) <= causal.MOST_BLOCKS
    for block in found:
        assert block.first == (0 if window is None else max(block.start - window + 1, 0))
        assert block.last == min(block.end + run - 1, T)


IMAGES = [(2, 6), (14, 30), (31, 34)]  # first token and end of each; across blocks of 16 and of every phase


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("as_data", [False, True])
def test_the_tokens_of_an_image_read_each_other_both_ways(window, as_data):
    """And only within the window backwards, as transformers' sliding layers have it."""
    T, run = 40, 16
    image_T = np.zeros(T, bool)
    for first, end in IMAGES:
        image_T[first:end] = True
    until_BT = run_ends(jnp.broadcast_to(image_T, (B, T)))
    allowed = np.tril(np.ones((T, T), bool))
    for first, end in IMAGES:
        allowed[first:end, first:end] = True
    if window is not None:
        allowed &= np.arange(T)[:, None] - np.arange(T)[None] < window

    def want(q, k, v, lengths, window):
        return attend(
            q, [Segment(k, v, jnp.asarray(allowed)[None] & (jnp.arange(T)[None] < lengths[:, None])[:, None])]
        )

    def got(q, k, v, lengths, window):
        reach = jnp.int32(2**30 if window is None else window) if as_data else None
        return causal.causal_attention(q, k, v, lengths, None if as_data else window, reach, until_BT, run)

    for one, other in zip(
        jax.tree.leaves(value_and_gradients(got, T, window)),
        jax.tree.leaves(value_and_gradients(want, T, window)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    mask = causal_mask(positions, positions, jnp.full((B,), T), window, until_BT)
    np.testing.assert_array_equal(mask[0], allowed)
