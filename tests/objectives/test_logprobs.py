"""Chunked log-probabilities equal the direct computation, and padding counts nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.objectives import logprobs
from vlm_mu_jax.objectives.token_losses import KL, NLL, WithoutLabel

B, T, D, V = 3, 11, 5, 17


@pytest.fixture
def case(rng):
    hidden = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, V, (B, T)))
    mask = jnp.asarray(rng.random((B, T)) < 0.5)
    return hidden, head, tokens, mask


def direct(hidden, head, tokens, mask):
    logp = jax.nn.log_softmax(jnp.einsum("btd,dv->btv", hidden, head), axis=-1)[:, :-1]
    picked = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]
    return -(picked * mask[:, 1:]).sum(axis=-1)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_chunked_equals_direct_with_gradients(case, chunk):
    hidden, head, tokens, mask = case

    def chunked(hidden, head):
        return logprobs.answer_nll(hidden, lambda x: x @ head, tokens, mask, chunk)[0]

    np.testing.assert_allclose(chunked(hidden, head), direct(hidden, head, tokens, mask), rtol=1e-5, atol=1e-5)
    got = jax.grad(lambda *a: chunked(*a).sum(), argnums=(0, 1))(hidden, head)
    want = jax.grad(lambda *a: direct(*a, tokens, mask).sum(), argnums=(0, 1))(hidden, head)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


def test_counts_leave_out_a_token_without_a_predictor(case):
    hidden, head, tokens, _ = case
    mask = jnp.zeros((B, T), bool).at[0, 0].set(True).at[1, 1:4].set(True)
    nll, count = logprobs.answer_nll(hidden, lambda x: x @ head, tokens, mask)
    assert count.tolist() == [0, 3, 0]
    assert nll[0] == 0 and nll[2] == 0 and nll[1] > 0


def test_padding_changes_nothing_even_when_it_is_not_finite(case):
    hidden, head, tokens, mask = case
    wide = jnp.pad(hidden, ((0, 0), (0, 6), (0, 0)), constant_values=jnp.inf)
    padded = (jnp.pad(tokens, ((0, 0), (0, 6)), constant_values=3), jnp.pad(mask, ((0, 0), (0, 6))))
    for chunk in (4, 64):
        plain = logprobs.answer_nll(hidden, lambda x: x @ head, tokens, mask, chunk)
        more = logprobs.answer_nll(wide, lambda x: x @ head, *padded, chunk)
        np.testing.assert_allclose(plain[0], more[0], rtol=1e-6)
        np.testing.assert_array_equal(plain[1], more[1])


def test_several_losses_share_the_logits_and_keep_their_own_masks(case):
    hidden, head, tokens, mask = case
    losses = (NLL(), WithoutLabel(skip=2), KL())

    def sums(losses, chunk=4):
        return logprobs.answer_sums(
            hidden, lambda x: x @ head, tokens, mask, losses, (hidden * 0.5, lambda x: x @ head), chunk
        )

    for together, alone in zip(sums(losses), [sums((loss,), 64)[0] for loss in losses], strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-5)
    counts = [logprobs.count(mask, loss) for loss in losses]
    np.testing.assert_array_equal(counts[0], mask[:, 1:].sum(axis=1))
    np.testing.assert_array_equal(counts[1], jnp.maximum(mask[:, 1:].sum(axis=1) - 2, 0))
