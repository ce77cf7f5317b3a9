"""NPO, SimNPO and the preference term: reductions, limits, gates, the two readings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import toy
from tests.objectives.fake_policy import FakePolicy
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.gradient import GA
from vlm_mu_jax.objectives.npo import NPO, Preference, SimNPO, forget_terms, log_ratio
from vlm_mu_jax.objectives.objective import Objective

COUNTS = jnp.asarray([2.0, 8.0, 3.0])
REFERENCE = jnp.asarray([3.0, 9.0, 5.0])


def loss(nll, reduction, beta=0.5):
    return forget_terms(log_ratio(nll, REFERENCE, COUNTS, reduction), beta).mean()


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
        assert np.isfinite(forget_terms(jnp.asarray(shift), 0.1))


def test_unscaled_form_lacks_the_factor():
    r = jnp.asarray([0.3, -2.0])
    np.testing.assert_allclose(forget_terms(r, 0.1) * 0.1 / 2, forget_terms(r, 0.1, scaled=False), rtol=1e-6)


def test_readings_and_overrides():
    assert NPO().reduction == "sequence_sum" and NPO().retain_preference == 0
    assert NPO(reading="as_code").reduction == "batch_token_mean" and NPO(reading="as_code").retain_preference == 1
    assert NPO(reading="as_code", reduction="token_mean").reduction == "token_mean"
    for bad in ({"reading": "paper"}, {"reduction": "mean"}, {"beta": 0.0}):
        with pytest.raises(InputError, match="objective"):
            NPO(**bad)
    with pytest.raises(InputError, match="beta must be above 0"):
        SimNPO(beta=-1.0)


@pytest.mark.parametrize("reduction", ["sequence_sum", "token_mean", "batch_token_mean"])
def test_at_the_reference_npo_is_gradient_ascent(reduction):
    """r = 0: the gradient with respect to the weights is that of GA under the same reduction."""
    streams = at_reference(toy.parts(GA_ONLY))
    npo = Objective(((1.0, NPO(reduction=reduction, beta=0.7)),))
    ascent = Objective(((1.0, GA(reduction=reduction)),))
    got, want = (toy.loss_and_gradient(o, streams)[1] for o in (npo, ascent))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_small_beta_is_gradient_ascent_away_from_the_reference_too():
    streams = toy.parts(GA_ONLY)
    npo = Objective(((1.0, NPO(beta=1e-5)),))
    ascent = Objective(((1.0, GA(reduction="sequence_sum")),))
    got, want = (toy.loss_and_gradient(o, streams)[1] for o in (npo, ascent))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_simnpo_is_npo_with_a_reference_of_delta_nats_per_token():
    streams = toy.parts(GA_ONLY)
    part = streams["forget"]
    streams["forget"] = dataclasses.replace(part, reference=0.3 * part.mask[:, 1:].sum(axis=1))
    npo = Objective(((1.0, NPO(reduction="token_mean", beta=2.0)),))
    simnpo = Objective(((1.0, SimNPO(beta=2.0, delta=0.3)),))
    for got, want in zip(*(toy.loss_and_gradient(o, streams)[:2] for o in (simnpo, npo)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_preference_term_is_npo_with_the_other_sign_and_has_no_floor():
    streams = toy.parts(GA_ONLY)
    npo, wanted = (Objective(((1.0, t),)) for t in (NPO(beta=0.3), Preference(0.3, stream="forget")))
    losses = [toy.loss_and_gradient(o, streams) for o in (npo, wanted)]
    np.testing.assert_allclose(losses[0][0], -losses[1][0], rtol=1e-6)
    np.testing.assert_allclose(losses[0][1], -losses[1][1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(-forget_terms(jnp.float32(-1e4), 0.3), -2e4, rtol=1e-5)  # 2 r


GA_ONLY = Objective(((1.0, GA()),))


def at_reference(streams):
    """The rows with the toy model's own NLL as their reference."""
    policy = FakePolicy(lambda r: toy.THETA[r.batch.tokens_BT], lambda h: h @ toy.HEAD)
    return {
        name: dataclasses.replace(part, reference=np.asarray(policy.nll(part.batch())))
        for name, part in streams.items()
    }
