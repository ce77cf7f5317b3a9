"""Estimators on planted states: what each must find, its sign, and what it must refuse."""

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import estimators
from vlm_mu_jax.steering.estimators import estimate


def cosines(found, truth_LD) -> np.ndarray:
    return np.einsum("ld,ld->l", found.basis_LMD[:, 0], truth_LD)


@pytest.mark.parametrize("name", ["svd", "means", "pca", "lda", "probe"])
def test_the_planted_direction_is_found_with_its_sign(planted, name):
    harmful, harmless, truth_LD = planted()
    found = estimate(name, harmful, harmless)
    assert (cosines(found, truth_LD) > 0.7).all()  # lda estimates a covariance from 120 states
    assert (cosines(estimate(name, harmless, harmful), truth_LD) < -0.7).all()
    np.testing.assert_allclose(np.linalg.norm(found.basis_LMD, axis=-1), 1)
    assert (found.gap_L() > 0).all() and found.basis_LMD.shape == (3, 1, 24)


def test_lda_solves_the_normal_equations_of_fisher(planted):
    harmful, harmless, _ = planted()
    within_ND = np.concatenate([harmful[0] - harmful[0].mean(0), harmless[0] - harmless[0].mean(0)])
    ridge = 0.1 * (within_ND**2).mean()
    covariance_DD = within_ND.T @ within_ND / len(within_ND) + ridge * np.eye(24)
    wanted = np.linalg.solve(covariance_DD, harmful[0].mean(0) - harmless[0].mean(0))
    found = estimate("lda", harmful, harmless).basis_LMD[0, 0]
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-9)


def test_lda_and_probe_ignore_a_loud_direction_that_tells_nothing(planted):
    """Noise along one axis drowns the classes for the difference of means' score, not for these two."""
    harmful, harmless, _ = planted()
    loud = np.random.default_rng(1).normal(size=(2, 3, 60, 1)) * 40 * np.eye(24)[0]
    harmful, harmless = harmful + loud[0], harmless + loud[1]

    def apart(name: str) -> float:
        found = estimate(name, harmful[:, :30], harmless[:, :30])
        a, b = found.scores(harmful[:, 30:]), found.scores(harmless[:, 30:])
        return float(((a.mean(1) - b.mean(1)) / np.sqrt((a.var(1) + b.var(1)) / 2)).min())

    assert min(apart("lda"), apart("probe")) > apart("means") + 0.5


def test_image_shift_is_what_the_image_adds(planted):
    harmful, harmless, truth_LD = planted()
    shift_LD = np.random.default_rng(5).normal(size=(3, 24))
    text = np.concatenate([harmful, harmless], axis=1)
    found = estimate("image_shift", harmful, harmless, blank_LKD=text + 3 * shift_LD[:, None])
    assert (cosines(found, shift_LD) / np.linalg.norm(shift_LD, axis=1) > 0.999).all()
    np.testing.assert_allclose(found.gap_L(), 3 * np.linalg.norm(shift_LD, axis=1))
    with pytest.raises(InputError, match="vision"):
        estimate("image_shift", harmful, harmless)


def test_null_space_leaves_benign_states_alone_and_still_sees_harm():
    rng = np.random.default_rng(0)
    span = np.linalg.qr(rng.normal(size=(24, 24)))[0].T
    benign = rng.normal(size=(2, 40, 6)) @ span[:6] * 5
    harmful = benign + 2 * span[10] + rng.normal(size=(2, 40, 3)) @ span[:3]
    found = estimate("null_space", harmful, benign)
    np.testing.assert_allclose(np.einsum("lnd,ld->ln", benign, found.basis_LMD[:, 0]), 0, atol=1e-9)
    np.testing.assert_allclose(cosines(found, np.stack([span[10]] * 2)), 1)
    with pytest.raises(InputError, match="outside the benign"):
        estimate("null_space", benign + rng.normal(size=(2, 40, 6)) @ span[:6], benign)


def test_subspaces_have_orthonormal_rows(planted):
    harmful, harmless, _ = planted()
    for name in set(estimators.ESTIMATORS) - set(estimators.RANK_ONE):
        pairs = 10 if name == "null_space" else 60  # fewer benign states than dimensions leave a null space
        some = harmful[:, :pairs], harmless[:, :pairs]
        blank = np.concatenate(some, axis=1) + np.random.default_rng(3).normal(size=(3, 2 * pairs, 24))
        found = estimate(name, *some, rank=3, blank_LKD=blank if name == "image_shift" else None)
        for rows_MD in found.basis_LMD:
            np.testing.assert_allclose(rows_MD @ rows_MD.T, np.eye(3), atol=1e-9)


def test_what_an_estimator_cannot_do_is_an_input_error(planted):
    harmful, harmless, _ = planted()
    with pytest.raises(InputError, match="use one of"):
        estimate("ica", harmful, harmless)
    with pytest.raises(InputError, match="one direction"):
        estimate("lda", harmful, harmless, rank=2)
    with pytest.raises(InputError, match="rank 30"):
        estimate("pca", harmful, harmless, rank=30)
