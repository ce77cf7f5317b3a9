"""Token losses against their formulas written out for one token, their minima and their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.objectives.token_losses import KL, NLL, Distilled, Flatness, WeightedNLL, WithoutLabel

Z = np.array([0.3, -1.2, 2.0, 0.7], np.float32)
BEFORE = np.array([1.0, 0.1, -0.4, 0.2], np.float32)
Y = 2
P, Q = (np.exp(z) / np.exp(z).sum() for z in (Z, BEFORE))


def loss(kind, z=Z, before=BEFORE):
    return kind(jnp.asarray(z), jnp.int32(Y), jnp.asarray(before))


def gradient(kind, z=Z):
    return jax.grad(lambda z: kind(z, jnp.int32(Y), jnp.asarray(BEFORE)))(jnp.asarray(z))


def test_formulas():
    others = np.array([p for v, p in enumerate(P) if v != Y]) / (1 - P[Y])
    lowered = BEFORE - 3.0 * (np.arange(4) == Y)
    target = np.exp(lowered) / np.exp(lowered).sum()
    wanted = {
        NLL(): -np.log(P[Y]),
        KL(): (Q * np.log(Q / P)).sum(),
        WeightedNLL(2.0, 1.0): P[Y] ** 2 * (1 - P[Y]) * -np.log(P[Y]),
        WithoutLabel(): -(others * np.log([p for v, p in enumerate(P) if v != Y])).sum(),
        Distilled(3.0): -(target * np.log(P)).sum(),
        Flatness(): (Z.max() - Z.mean()) ** 2,
    }
    for kind, value in wanted.items():
        np.testing.assert_allclose(loss(kind), value, rtol=1e-5, err_msg=str(kind))


def test_weights_have_no_gradient():
    np.testing.assert_allclose(gradient(WeightedNLL(2.0)), P[Y] ** 2 * gradient(NLL()), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient(WeightedNLL(0.0)), gradient(NLL()), rtol=1e-6)


def test_targets_are_constants_and_minima_are_where_they_should_be():
    np.testing.assert_allclose(gradient(KL(), BEFORE), 0, atol=1e-6)
    np.testing.assert_allclose(gradient(Distilled(0.0), BEFORE), 0, atol=1e-6)
    assert loss(KL(), BEFORE) < 1e-6 < loss(KL())
    assert loss(Flatness(), np.full(4, 5.0, np.float32)) == 0
    without = gradient(WithoutLabel())
    others = np.where(np.arange(4) == Y, 0, P) / (1 - P[Y])
    np.testing.assert_allclose(without, P - others, rtol=1e-5)  # descent lowers the label's logit
    assert without[Y] > 0


@pytest.mark.parametrize("sure", [0.5, 1.0, 5.0])
def test_weighted_ascent_has_a_floor_where_plain_ascent_has_none(sure):
    """x exp(-sure x) is at most 1 / (e sure), so the loss of WGA and SatImp is never below minus that."""
    for depth in np.linspace(0.0, 200.0, 41):
        z = np.where(np.arange(4) == Y, -depth, 0.0).astype(np.float32)
        for unsure in (0.0, 1.0):
            assert -1e-6 <= loss(WeightedNLL(sure, unsure), z) <= 1 / (np.e * sure) + 1e-6
    assert loss(NLL(), np.where(np.arange(4) == Y, -1e6, 0.0).astype(np.float32)) > 9e5


@pytest.mark.parametrize("kind", [NLL(), KL(), WeightedNLL(5.0, 0.5), WithoutLabel(), Distilled(10.0), Flatness()])
def test_certain_models_give_finite_losses_and_gradients(kind):
    """The label has all, or none, of the probability."""
    for sign in (1.0, -1.0):
        z = np.where(np.arange(4) == Y, sign * 1e4, 0.0).astype(np.float32)
        assert np.isfinite(loss(kind, z)) and np.isfinite(gradient(kind, z)).all()
