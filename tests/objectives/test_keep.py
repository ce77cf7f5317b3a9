"""The primal-dual retain weight."""

import jax.numpy as jnp
import numpy as np

from tests.objectives import toy
from vlm_mu_jax.objectives.keep import CE, Constrained
from vlm_mu_jax.objectives.objective import Objective

TERM = Constrained(limit=2.0, start=3.0, rate=0.5, warmup=2)


def test_the_loss_is_the_dual_times_the_excess():
    streams = {"retain": toy.part(0)}
    nll, gradient, _ = toy.loss_and_gradient(Objective(((1.0, CE("retain")),)), streams)
    for micro in (1, 2):  # the constant must not count once per micro-batch
        loss, moved, metrics = toy.loss_and_gradient(Objective(((1.0, TERM),)), streams, micro)
        np.testing.assert_allclose(loss, 3.0 * (nll - 2.0), rtol=1e-5)
        np.testing.assert_allclose(moved, 3.0 * gradient, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics["retain_dual"], 3.0, rtol=1e-6)


def test_the_dual_rises_above_the_limit_falls_below_it_and_stops_at_zero():
    def after(dual, nll, step):
        moved = TERM.next_duals({"retain_dual": jnp.float32(dual)}, {"retain_nll": jnp.float32(nll)}, jnp.int32(step))
        return float(moved["retain_dual"])

    assert after(3.0, 2.6, 2) == np.float32(3.3)
    assert after(3.0, 1.0, 5) == 2.5
    assert after(0.2, 0.0, 5) == 0.0
    assert after(3.0, 9.0, 1) == 3.0  # warming up
    assert TERM.duals()["retain_dual"] == 3.0
