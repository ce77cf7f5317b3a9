"""GA, GradDiff, WGA and SatImp: signs, reductions, limits."""

import numpy as np
import pytest

from tests.objectives import toy
from vlm_mu_jax.objectives.gradient import GA, WGA, SatImp
from vlm_mu_jax.objectives.keep import CE, KLToReference
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.objectives.soft_targets import CEU


def only(*terms):
    return Objective(tuple((1.0, term) for term in terms))


def gradient(objective, streams):
    return toy.loss_and_gradient(objective, streams)[1]


def test_signs():
    streams = toy.parts(make_objective("graddiff", general_weight=0.0))
    ascent = gradient(only(GA()), {"forget": streams["forget"]})
    descent = {name: gradient(only(CE(name)), {name: part}) for name, part in streams.items()}
    np.testing.assert_allclose(ascent, -descent["forget"], rtol=1e-5, atol=1e-6)
    both = gradient(make_objective("graddiff", general_weight=0.0), streams)
    np.testing.assert_allclose(both, descent["retain"] - descent["forget"], rtol=1e-4, atol=1e-6)


def test_kl_is_zero_without_gradient_at_the_reference():
    streams = {"retain": toy.part(0)}
    loss, at_reference, _ = toy.loss_and_gradient(only(KLToReference()), streams, theta=toy.REFERENCE)
    assert abs(loss) < 1e-5 and np.abs(at_reference).max() < 1e-5
    assert toy.loss_and_gradient(only(KLToReference()), streams)[0] > 0.1


def test_weights_that_are_switched_off():
    streams = toy.parts(only(GA()))
    for other in (WGA(beta=0.0), SatImp(beta1=0.0, beta2=0.0)):
        np.testing.assert_allclose(gradient(only(other), streams), gradient(only(GA()), streams), rtol=1e-5, atol=1e-7)
    wga, satimp = (gradient(only(term), streams) for term in (WGA(beta=2.0), SatImp(beta1=2.0, beta2=0.0)))
    np.testing.assert_allclose(wga, satimp, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("term", [GA, CEU], ids=lambda kind: kind.__name__)
def test_reductions_are_what_they_say(term):
    """Sums and counts per example, from one-row batches, put together by hand."""
    part = toy.part(3)
    skip = 1 if term is CEU else 0
    counts = np.maximum(part.mask.sum(axis=1) - skip, 0)
    assert len(set(counts)) == 4
    rows = [{"forget": part.take(np.array([i]))} for i in range(toy.B)]
    sums = np.array([toy.loss_and_gradient(only(term(reduction="sequence_sum")), row)[0] for row in rows])

    def loss(reduction):
        return toy.loss_and_gradient(only(term(reduction=reduction)), {"forget": part})[0]

    np.testing.assert_allclose(loss("sequence_sum"), sums.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss("token_mean"), (sums / np.maximum(counts, 1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss("batch_token_mean"), sums.sum() / counts.sum(), rtol=1e-5)
