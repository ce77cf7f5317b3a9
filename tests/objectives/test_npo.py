"""NPO: its reductions, its limit at the reference, its two readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.fake_policy import FakePolicy, rows, value
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.gradient import GradientAscent
from vlm_mu_jax.objectives.npo import NPO, forget_terms, log_ratio, preference_terms

COUNTS = jnp.asarray([2.0, 8.0, 3.0])
REFERENCE = jnp.asarray([3.0, 9.0, 5.0])


def loss(nll, reduction, beta=0.5):
    return forget_terms(log_ratio(nll, REFERENCE, COUNTS, reduction), beta).mean()


@pytest.mark.parametrize("reduction", ["sequence_sum", "token_mean", "batch_token_mean"])
def test_gradient_at_the_reference_is_gradient_ascent(reduction):
    """At r = 0 the gradient of NPO is the gradient of -NLL under the same reduction."""
    ascent = {
        "sequence_sum": lambda nll: -nll.mean(),
        "token_mean": lambda nll: -(nll / COUNTS).mean(),
        "batch_token_mean": lambda nll: -nll.sum() / COUNTS.sum(),
    }[reduction]
    got = jax.grad(lambda nll: loss(nll, reduction))(REFERENCE)
    np.testing.assert_allclose(got, jax.grad(ascent)(REFERENCE), rtol=1e-6)


def test_beta_to_zero_is_gradient_ascent_everywhere():
    nll = REFERENCE + jnp.asarray([2.0, -1.0, 4.0])
    got = jax.grad(lambda x: loss(x, "sequence_sum", beta=1e-4))(nll)
    np.testing.assert_allclose(got, -jnp.ones(3) / 3, rtol=1e-3)


def test_gate_values_of_the_reference_page():
    """beta 0.9 per token: gradient -1, -0.58, -0.28, -0.05 at r = 0, 1, 2, 4 nats."""
    gate = jax.vmap(jax.grad(lambda r: forget_terms(r, 0.9)))(jnp.asarray([0.0, 1.0, 2.0, 4.0]))
    np.testing.assert_allclose(gate, [-1, -0.578, -0.284, -0.053], atol=1e-3)


def test_an_answer_that_is_already_gone_is_left_alone_per_example_only():
    gone = REFERENCE + jnp.asarray([500.0, 0.0, 0.0])
    per_example = jax.grad(lambda x: loss(x, "sequence_sum"))(gone)
    assert per_example[0] == 0 and per_example[1] < -0.3
    coupled = jax.grad(lambda x: loss(x, "batch_token_mean"))(gone)
    assert jnp.abs(coupled).max() < 1e-6  # one sigmoid for the batch: nothing is forgotten any more


def test_loss_stays_finite_far_from_the_reference():
    for shift in (-1e6, 1e6):
        assert np.isfinite(loss(REFERENCE + shift, "sequence_sum"))
        assert np.isfinite(preference_terms(jnp.asarray(shift), 0.1))


def test_unscaled_form_lacks_the_factor():
    r = jnp.asarray([0.3, -2.0])
    np.testing.assert_allclose(forget_terms(r, 0.1) * 0.1 / 2, forget_terms(r, 0.1, scaled=False), rtol=1e-6)


def test_readings_and_overrides():
    assert NPO().reduction == "sequence_sum" and NPO().retain_preference == 0
    assert NPO(reading="as_code").reduction == "batch_token_mean" and NPO(reading="as_code").retain_preference == 1
    assert NPO(reading="as_code", reduction="token_mean").reduction == "token_mean"
    assert NPO().reference_nll_streams == ("forget",)
    assert NPO(reading="as_code").reference_nll_streams == ("forget", "retain")
    for bad in ({"reading": "paper"}, {"reduction": "mean"}, {"beta": 0.0}):
        with pytest.raises(InputError):
            NPO(**bad)


def make_case(rng, reading, pad=0):
    head = jnp.asarray(rng.normal(size=(4, 9)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
    tokens = rng.integers(0, 9, (3, 7))
    mask = np.zeros((3, 7), bool)
    for i, start in enumerate((2, 5, 4)):
        mask[i, start:] = True

    def batch():
        wide = (np.pad(tokens, ((0, 0), (0, pad)), constant_values=1), np.pad(mask, ((0, 0), (0, pad))))
        return rows(*wide, lengths=[7, 7, 7], reference=jnp.asarray([4.0, 3.0, 2.0]))

    def run(table):
        policy = FakePolicy(lambda r: table[r.batch.tokens_BT], lambda h: h @ head)
        return value(NPO(reading=reading, beta=0.7), policy, {"forget": batch(), "retain": batch()})

    return jax.value_and_grad(run)(table)


@pytest.mark.parametrize("reading", ["as_paper", "as_code"])
def test_padding_changes_neither_value_nor_gradient(reading):
    plain, grad = make_case(np.random.default_rng(1), reading)
    more, more_grad = make_case(np.random.default_rng(1), reading, pad=5)
    np.testing.assert_allclose(plain, more, rtol=1e-6)
    np.testing.assert_allclose(grad, more_grad, rtol=1e-5, atol=1e-6)


def test_whole_objective_at_the_reference_moves_like_gradient_ascent(rng):
    """With equal token counts, batch_token_mean NPO without retain terms has the gradient of GA."""
    head, table = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 9), (9, 4)))
    tokens, mask = rng.integers(0, 9, (3, 6)), np.arange(6)[None].repeat(3, 0) > 2
    policy = FakePolicy(lambda r: table[r.batch.tokens_BT], lambda h: h @ head)
    reference, _ = policy.nll(rows(tokens, mask))

    def gradient(objective):
        def run(table):
            inner = FakePolicy(lambda r: table[r.batch.tokens_BT], lambda h: h @ head)
            batch = rows(tokens, mask, reference=reference)
            return value(objective, inner, dict.fromkeys(("forget", "retain"), batch))

        return jax.grad(run)(table)

    npo = NPO(reduction="batch_token_mean", retain_weight=0.0, retain_preference=0.0)
    np.testing.assert_allclose(gradient(npo), gradient(GradientAscent()), rtol=1e-4, atol=1e-6)
