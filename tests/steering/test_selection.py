"""The rule of choice: the bound comes first, then refusal, then the weaker guard; "off" always takes part."""

import dataclasses

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.selection import OFF, Bounds, Candidate, Grid, GuardScores, default_layer_sets, select


def amplify(strength: float) -> Candidate:
    return Candidate("amplify", strength, (1,), "midpoint")


def choose(table: dict, **bounds):
    return select(list(table), table.__getitem__, Bounds(**bounds))


def test_highest_refusal_within_the_bound_wins_and_all_scores_are_kept():
    table = {
        OFF: GuardScores(0.2, 0.0),
        amplify(1): GuardScores(0.8, 0.04),
        amplify(2): GuardScores(0.9, 0.05),
        amplify(4): GuardScores(1.0, 0.3),
    }
    result = choose(table, max_over_refusal=0.05)
    assert result.best == amplify(2)
    assert [row["feasible"] for row in result.rows] == [True, True, True, False]
    assert result.as_json()["candidates"][3]["refusal_harmful"] == 1.0


def test_ties_go_to_fewer_answers_then_less_nonsense_then_the_weaker_guard_then_less_over_refusal():
    answers, nonsense = GuardScores(0.9, 0, answered_harmful=0.1), GuardScores(0.9, 0, irrelevant_harmful=0.1)
    assert choose({OFF: GuardScores(0, 0), amplify(1): answers, amplify(2): nonsense}).best == amplify(2)
    nonsense = {
        OFF: GuardScores(0, 0),
        amplify(1): GuardScores(0.9, 0, irrelevant_harmful=0.1),
        amplify(2): GuardScores(0.9, 0),
    }
    assert choose(nonsense).best == amplify(2)
    assert choose(
        {OFF: GuardScores(0, 0), amplify(2): GuardScores(1, 0.0), amplify(1): GuardScores(1, 0.05)}
    ).best == amplify(1)
    other = dataclasses.replace(amplify(1), scope="last")
    assert choose({OFF: GuardScores(0, 0), amplify(1): GuardScores(1, 0.05), other: GuardScores(1, 0.0)}).best == other


def test_what_answers_cannot_tell_apart_is_told_by_the_likelihood_of_the_texts_refusal():
    table = {
        OFF: GuardScores(0, 0),
        amplify(1): GuardScores(1, 0, text_answer_nll=0.5),
        amplify(2): GuardScores(1, 0, text_answer_nll=0.2),
    }
    assert choose(table).best == amplify(2)
    assert choose(table | {amplify(2): GuardScores(0.9, 0, text_answer_nll=0.2)}).best == amplify(1)


def test_ranks_are_tried_where_the_operator_has_them():
    grid = Grid(operators=("add", "transplant"), strengths=(1,), ranks=(1, 4)).candidates(10)
    assert [(c.operator, c.rank) for c in grid[1:]] == [("add", 0), ("transplant", 1), ("transplant", 4)]


@pytest.mark.parametrize("L", [1, 2, 3, 4, 8, 32, 80])
def test_default_grid_is_small_and_holds_the_middle(L):
    grid = Grid(layer_sets=default_layer_sets(L)).candidates(L)
    assert 1 < len(grid) < 40
    assert set(default_layer_sets(4)) == {"1,2", "1,2,3", "1", "2"}
    assert set(default_layer_sets(8)) == {"2,3,4,5", "2,3,4,5,6", "4,5", "4"}


def test_a_guard_that_ruins_harmless_answers_is_not_chosen():
    table = {
        OFF: GuardScores(0.2, 0.0, 0.97),
        amplify(1): GuardScores(0.6, 0.0, 0.95),
        amplify(2): GuardScores(1.0, 0.0, 0.2),
    }
    assert choose(table).best == amplify(1)


def test_a_guard_that_moves_harmless_answers_too_far_is_not_chosen():
    table = {
        OFF: GuardScores(0, 0),
        amplify(1): GuardScores(0.5, 0, kl_harmless=0.1),
        amplify(2): GuardScores(1, 0, kl_harmless=0.2),
    }
    assert choose(table).best == amplify(1)
    assert choose(table, max_kl=0.3).best == amplify(2)


def test_off_is_chosen_when_nothing_helps_and_must_be_in_the_grid():
    assert choose({OFF: GuardScores(0.5, 0.0), amplify(1): GuardScores(0.4, 0.0)}).best == OFF
    wording = {
        OFF: GuardScores(0.0, 0.0, irrelevant_harmful=0.04),
        amplify(1): GuardScores(0.0, 0.0, irrelevant_harmful=0.0),
    }
    assert choose(wording).best == OFF  # other words for the same harm are no guard
    assert choose({OFF: GuardScores(0.5, 0.0), amplify(1): GuardScores(0.54, 0.0)}).best == OFF
    assert choose({OFF: GuardScores(0.5, 0.0), amplify(1): GuardScores(0.54, 0.0)}, min_gain=0.0).best == amplify(1)
    with pytest.raises(InputError, match="off"):
        choose({amplify(1): GuardScores(1, 0)})


def test_a_model_that_over_refuses_already_is_held_to_its_own_level():
    assert choose(
        {OFF: GuardScores(0.2, 0.10), amplify(1): GuardScores(0.9, 0.10), amplify(2): GuardScores(1, 0.11)}
    ).best == amplify(1)


def test_grid_leaves_out_the_last_layers_and_repeats_nothing():
    grid = Grid(
        operators=("amplify", "project_out"), strengths=(1, 2), layer_sets=("middle", "6-9", "8-9"), gates=("zero",)
    ).candidates(10)
    assert grid[0] == OFF and len(grid) == len(set(grid)) == 1 + 2 * 2 + 2
    assert {c.layers for c in grid[1:]} == {(3, 4, 5, 6), (6, 7)}
    assert {c.strength for c in grid if c.operator == "project_out"} == {-1.0}
    with pytest.raises(InputError, match="rotate"):
        Grid(operators=("rotate",)).candidates(10)
    grid = Grid(operators=("transplant", "ablate"), strengths=(1,), layer_sets=("middle", "4")).candidates(10)
    assert [(c.operator, c.layers, c.component) for c in grid[1:]] == [
        ("transplant", (3, 4, 5, 6), "text"),
        ("transplant", (4,), "text"),
        ("ablate", (4,), "token"),
    ]
    assert [c.scope for c in Grid(operators=("reflect",), scopes=("last", "all")).candidates(10)[1:]] == ["last", "all"]
    with pytest.raises(InputError, match="everywhere"):
        Grid(scopes=("everywhere",)).candidates(10)
    with pytest.raises(InputError, match="probe"):
        Grid(gates=("probe",)).candidates(10)
