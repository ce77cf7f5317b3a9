"""Gates: thresholds against planted scores, and one decision per example."""

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import gates, operators
from vlm_mu_jax.steering.directions import paired_svd


def anchor_and_held_out(planted, offset: float):
    """Directions and anchor scores from the first half of the pairs, scores of the second half."""
    harmful, harmless, _ = planted(offset=offset)
    found = paired_svd(harmful[:, :30], harmless[:, :30])
    scores = gates.AnchorScores(found.scores(harmful[:, :30]), found.scores(harmless[:, :30]))
    return scores, found.scores(harmful[:, 30:]), found.scores(harmless[:, 30:])


def test_midpoint_separates_held_out_pairs_where_zero_has_no_bias(planted):
    scores, harmful, harmless = anchor_and_held_out(planted, offset=5.0)
    true_L, false_L = gates.rates(harmful, harmless, gates.thresholds("midpoint", scores))
    assert (true_L >= 0.85).all() and (false_L <= 0.15).all()
    true_L, false_L = gates.rates(harmful, harmless, gates.thresholds("zero", scores))
    # A common mean decides: the zero gate is always on or always off at some layer.
    assert ((true_L - false_L) < 0.2).any()


def test_calibrated_gate_keeps_its_false_positive_rate(planted):
    scores, harmful, harmless = anchor_and_held_out(planted, offset=5.0)
    threshold_L = gates.thresholds("calibrated", scores, fpr=0.1)
    _, in_sample_L = gates.rates(scores.harmful_LN, scores.harmless_LN, threshold_L)
    assert (in_sample_L <= 0.1).all() and (in_sample_L > 0).all()
    true_L, false_L = gates.rates(harmful, harmless, threshold_L)
    assert (false_L <= 0.3).all() and (true_L >= 0.7).all()


@pytest.mark.parametrize("fpr, allowed", [(0.0, 0), (0.05, 0), (0.1, 1), (0.5, 5), (0.99, 9)])
def test_calibrated_threshold_counts_exactly(fpr, allowed):
    scores_1N = np.random.default_rng(0).permutation(10.0 * np.arange(10))[None]
    assert (scores_1N > gates.calibrated_L(scores_1N, fpr)).sum() == allowed


def test_calibrated_gate_bounds_every_measured_condition():
    text = gates.AnchorScores(np.ones((1, 4)), np.zeros((1, 4)))
    both = gates.AnchorScores(np.ones((1, 4)), np.zeros((1, 4)), np.full((1, 4), 9.0), np.full((1, 4), 7.0))
    assert gates.thresholds("calibrated", text) == [0.0]
    assert gates.thresholds("calibrated", both) == [7.0]
    assert gates.thresholds("midpoint_blank", both) == [8.0]


def test_unknown_and_unmeasured_gates_are_input_errors():
    scores = gates.AnchorScores(np.ones((1, 4)), np.zeros((1, 4)))
    with pytest.raises(InputError, match="unknown"):
        gates.thresholds("cosine", scores)
    with pytest.raises(InputError, match="vision"):
        gates.thresholds("midpoint_blank", scores)
    with pytest.raises(InputError, match="fpr"):
        gates.thresholds("calibrated", scores, fpr=1.0)


def test_vote_is_one_decision_per_example_over_the_layers_that_are_on():
    basis_LMD = np.tile(np.eye(1, 4)[None], (4, 1, 1))
    steer = gates.per_layer(operators.amplify(basis_LMD, 1.0, (0, 2, 3)), np.zeros(4))
    states_LBD = np.zeros((4, 3, 4))
    states_LBD[:, :, 0] = np.array([[1, 1, -1], [9, -9, 9], [1, -1, -1], [-1, -1, -1]])  # votes 2/3, 1/3, 0/3
    np.testing.assert_array_equal(
        gates.decisions(states_LBD, steer.gate_LD, steer.threshold_L), [[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    )  # layer 1 is off: its high scores say nothing
    np.testing.assert_array_equal(
        gates.per_example(steer, states_LBD, quorum=0.5).gate_LB, [[1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]
    )
    late = gates.per_example(steer, states_LBD, threshold_L=np.full(4, -2.0), layers=(2, 3))
    np.testing.assert_array_equal(late.gate_LB[0], [1, 1, 1])
    other = steer.replace(gate_LD=basis_LMD[:, 0])  # layer 1 votes and is not steered
    votes = gates.per_example(other, states_LBD, threshold_L=np.full(4, 5.0), layers=(1,))
    np.testing.assert_array_equal(votes.gate_LB, [[1, 0, 1], [0, 0, 0], [1, 0, 1], [1, 0, 1]])


def test_a_gate_can_read_another_direction_than_the_one_that_is_steered():
    steer = gates.per_layer(
        operators.add(np.tile(np.eye(1, 4), (2, 1, 1)), 1.0, np.ones(2), (0, 1)),
        np.zeros(2),
        gate_LD=np.tile(np.eye(4)[1], (2, 1)),
    )
    states_LBD = np.zeros((2, 2, 4))
    states_LBD[:, 0, 0], states_LBD[:, 1, 1] = 1, 1
    np.testing.assert_array_equal(gates.decisions(states_LBD, steer.gate_LD, steer.threshold_L), [[0, 1], [0, 1]])
