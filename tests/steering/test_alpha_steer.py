"""AlphaSteer: its matrix against the published formula, and what the guard adds in a run."""

import jax
import numpy as np
import pytest

from vlm_mu_jax.attacks.margin.guards import search_steer
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.steering import alpha_steer, bake
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard
from vlm_mu_jax.steering.hidden_states import prompt_batches


@pytest.fixture(scope="module")
def guard(model, anchors):
    return extract_guard(model, anchors, ExtractOptions(method="alpha_steer", layers="1"))


def test_the_matrix_is_that_of_the_published_formula():
    """In full matrices, as the published code has it: P (X^T X + lambda P^T P)^+ X^T 1 r^T with X = H P."""
    rng = np.random.default_rng(0)
    harmful_ND, benign_KD, r_D = rng.normal(size=(30, 12)) + 1, rng.normal(size=(40, 12)), rng.normal(size=12)
    axes_DD = np.linalg.svd(benign_KD.T @ benign_KD)[2]
    p_DD = axes_DD[-6:].T @ axes_DD[-6:]
    x_ND = harmful_ND @ p_DD
    solved_DD = np.linalg.pinv(x_ND.T @ x_ND + 10 * p_DD.T @ p_DD) @ x_ND.T @ np.tile(r_D, (30, 1))
    w_D = alpha_steer.gate_rows(harmful_ND[None], benign_KD[None])[0]
    np.testing.assert_allclose(np.outer(w_D, r_D), p_DD @ solved_DD, atol=1e-9)


def test_benign_states_within_a_subspace_pass_nothing_and_harmful_ones_pass_one():
    rng = np.random.default_rng(1)
    benign_KD = rng.normal(size=(50, 6)) @ np.eye(12)[:6]
    harmful_ND = benign_KD[:20] + 8 * np.eye(12)[9]
    w_D = alpha_steer.gate_rows(harmful_ND[None], benign_KD[None])[0]
    np.testing.assert_allclose(benign_KD @ w_D, 0, atol=1e-9)
    np.testing.assert_allclose(harmful_ND @ w_D, 1, atol=0.01)


def test_every_written_token_gets_the_last_tokens_part(model, guard, pictures):
    batch, _ = next(prompt_batches(model, ["what is this?", "how to hurt a dax?"], list(pictures[:2]), 2))
    run = jax.jit(lambda batch, steer: forward(model.params, batch, model.config, steer=steer, upto=1).hidden_BTD)
    steer, ends = guard.using(strength=1e4).as_steer(), np.asarray(batch.lengths_B) - 1
    plain_BTD, found_BTD = np.asarray(run(batch, None)), np.asarray(run(batch, steer))
    last_BD = plain_BTD[np.arange(2), ends]
    r_D = guard.directions.mean_harmful_LD[1] - guard.directions.mean_harmless_LD[1]
    added_BD = 1e4 * (last_BD @ guard.gate_LD[1])[:, None] * r_D
    assert np.abs(added_BD).max() > 0.1  # these states are small beside lambda, so that the gate is about 0.001
    for row in range(2):
        moved_TD = (found_BTD - plain_BTD)[row, : ends[row] + 1]
        np.testing.assert_allclose(moved_TD, np.broadcast_to(added_BD[row], moved_TD.shape), atol=1e-4)


def test_what_a_linear_gate_cannot_do_is_refused(model, anchors, guard):
    with pytest.raises(InputError, match="--scope=last"):
        search_steer(guard.as_steer(), "g")
    search_steer(guard.using(scope="last").as_steer(), "g")
    with pytest.raises(InputError, match="alpha_steer"):
        extract_guard(model, anchors, ExtractOptions(layers="1")).using(gate="linear").as_steer()
    with pytest.raises(InputError, match="--decide=layer"):
        guard.using(decide="example")
    with pytest.raises(InputError, match="linear"):
        bake.module_settings(guard)
