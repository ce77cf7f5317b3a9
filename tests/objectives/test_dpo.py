"""DPO: the gradient at the start, pairs, and what the factor does."""

import dataclasses

import numpy as np

from tests.objectives import toy
from tests.objectives.test_npo import at_reference
from vlm_mu_jax.objectives.dpo import DPO
from vlm_mu_jax.objectives.objective import Objective


def only(term):
    return Objective(((1.0, term),))


def test_at_the_reference_it_raises_the_preferred_and_lowers_the_rejected_answer_alike():
    from vlm_mu_jax.objectives.gradient import GA, TokenForget
    from vlm_mu_jax.objectives.token_losses import NLL

    class Descent(TokenForget):
        def token_loss(self):
            return NLL()

    streams = at_reference(toy.parts(only(DPO())))
    loss, got, metrics = toy.loss_and_gradient(only(DPO(beta=0.4)), streams)
    np.testing.assert_allclose(loss, 2 / 0.4 * np.log(2), rtol=1e-5)
    down = toy.loss_and_gradient(only(GA(reduction="sequence_sum")), {"forget": streams["forget"]})[1]
    up = toy.loss_and_gradient(only(Descent(reduction="sequence_sum")), {"forget": streams["preferred"]})[1]
    np.testing.assert_allclose(got, down + up, rtol=1e-4, atol=1e-6)
    unscaled = toy.loss_and_gradient(only(DPO(beta=0.4, scaled=False)), streams)[1]
    np.testing.assert_allclose(unscaled, 0.2 * got, rtol=1e-5, atol=1e-7)
    assert metrics["preference_accuracy"] == 0


def test_rows_are_pairs():
    """The loss compares row i with row i: shuffling one side alone changes it, shuffling both does not."""
    streams, order = toy.parts(only(DPO(beta=1.0))), np.array([1, 2, 3, 0])
    loss = toy.loss_and_gradient(only(DPO(beta=1.0)), streams)[0]
    one = {**streams, "preferred": streams["preferred"].take(order)}
    assert abs(toy.loss_and_gradient(only(DPO(beta=1.0)), one)[0] - loss) > 1e-2
    both = {name: part.take(order) for name, part in streams.items()}
    np.testing.assert_allclose(toy.loss_and_gradient(only(DPO(beta=1.0)), both)[0], loss, rtol=1e-6)


def test_the_loss_vanishes_when_the_preferred_answer_has_won():
    streams = toy.parts(only(DPO()))
    streams["preferred"] = dataclasses.replace(streams["preferred"], reference=np.full(toy.B, 1e5, np.float32))
    loss, gradient, metrics = toy.loss_and_gradient(only(DPO(beta=0.4)), streams)
    assert loss == 0 and np.abs(gradient).max() == 0 and metrics["preference_accuracy"] == 1
