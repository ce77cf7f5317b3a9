"""Directions: what the decomposition must find, and its sign."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import directions as d

N = 60


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rows_are_orthonormal_and_the_projector_is_idempotent_of_that_rank(planted, rank):
    harmful, harmless, _ = planted()
    for basis_MD in d.paired_svd(harmful, harmless, rank).basis_LMD:
        np.testing.assert_allclose(basis_MD @ basis_MD.T, np.eye(rank), atol=1e-12)
        projector_DD = basis_MD.T @ basis_MD
        np.testing.assert_allclose(projector_DD @ projector_DD, projector_DD, atol=1e-12)
        assert np.linalg.matrix_rank(projector_DD) == rank


@given(seed=st.integers(0, 10**6), flip=st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_row_points_to_the_harmful_side(planted, seed, flip):
    harmful, harmless, _ = planted(seed)
    if flip:
        harmful, harmless = harmless, harmful
    found = d.paired_svd(harmful, harmless, rank=4)
    projections_LNM = np.einsum("lnd,lmd->lnm", harmful - harmless, found.basis_LMD)
    assert (projections_LNM.mean(1) > 0).all()
    assert set(np.unique(found.sign_LM)) <= {-1.0, 1.0}


def test_swapping_the_classes_turns_the_direction_around(planted):
    harmful, harmless, _ = planted()
    np.testing.assert_allclose(
        d.paired_svd(harmful, harmless).basis_LMD, -d.paired_svd(harmless, harmful).basis_LMD, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_uncentred_recovers_the_planted_direction_and_centred_does_not(planted, seed):
    harmful, harmless, truth_LD = planted(seed)
    uncentred_LD = d.paired_svd(harmful, harmless).basis_LMD[:, 0]
    assert (np.einsum("ld,ld->l", uncentred_LD, truth_LD) > 0.99).all()
    mean_difference_L1D = (harmful - harmless).mean(1, keepdims=True)
    centred_LD = d.paired_svd(harmful - mean_difference_L1D, harmless).basis_LMD[:, 0]
    assert (np.abs(np.einsum("ld,ld->l", centred_LD, truth_LD)) < 0.6).all()


def test_difference_of_means_agrees_with_the_planted_direction_and_needs_no_pairs(planted):
    harmful, harmless, truth_LD = planted()
    found = d.difference_of_means(harmful, harmless[:, : N // 2])
    assert (np.einsum("ld,ld->l", found.basis_LMD[:, 0], truth_LD) > 0.9).all()
    np.testing.assert_allclose(found.gap_L(), found.singular_LM[:, 0])


def test_midpoint_lies_between_the_class_means_and_gap_is_their_distance(planted):
    harmful, harmless, _ = planted()
    found = d.paired_svd(harmful, harmless)
    high_L, low_L = found.scores(harmful).mean(1), found.scores(harmless).mean(1)
    np.testing.assert_allclose(found.midpoint_L(), (high_L + low_L) / 2)
    np.testing.assert_allclose(found.gap_L(), high_L - low_L)


def test_half_precision_states_lose_nothing_in_the_sums(planted):
    harmful, harmless, truth_LD = planted()
    found = d.paired_svd(harmful.astype(np.float16), harmless.astype(np.float16))
    assert found.basis_LMD.dtype == np.float64
    assert (np.einsum("ld,ld->l", found.basis_LMD[:, 0], truth_LD) > 0.99).all()


def test_bad_anchors_are_input_errors(planted):
    harmful, harmless, _ = planted()
    with pytest.raises(InputError, match="not pairs"):
        d.paired_svd(harmful, harmless[:, :-1])
    with pytest.raises(InputError, match="rank 25"):
        d.paired_svd(harmful, harmless, rank=25)
    with pytest.raises(InputError, match="independent"):
        d.paired_svd(harmful, harmful)
    with pytest.raises(InputError, match="independent"):  # all pairs differ by the same vector: rank 1 only
        d.paired_svd(harmless + 1.0, harmless, rank=2)
    with pytest.raises(InputError, match="equal means"):
        d.difference_of_means(harmful, harmful)
