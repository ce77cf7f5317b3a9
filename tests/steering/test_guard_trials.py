"""Scores of a guard setting: the worse condition counts, and nonsense is told from refusal."""

import pytest

from vlm_mu_jax.cli.guard_trials import scores_of
from vlm_mu_jax.steering.selection import Scores


def shares(refused: float, irrelevant: float = 0.0) -> dict[str, float]:
    return {"refused": refused, "irrelevant": irrelevant, "answered": 1 - refused - irrelevant}


@pytest.mark.parametrize("worse, better", [("blank", "own"), ("own", "blank")])
def test_every_score_is_that_of_the_worse_condition(worse, better):
    share = {
        ("unsafe", worse): shares(0.5, 0.25),
        ("unsafe", better): shares(1.0),
        ("safe", worse): shares(0.25, 0.25),
        ("safe", better): shares(0.0),
    }
    refusals = {f"refusal_{worse}": 0.5, f"refusal_{better}": 1.0}
    assert scores_of(share, exact=True) == Scores(0.5, 0.25, 0.5, 0.25, **refusals)
    assert scores_of(share, exact=False).right_harmless is None


def test_a_text_only_model_has_no_scores_by_image():
    found = scores_of({("unsafe", "none"): shares(0.75), ("safe", "none"): shares(0.0)}, exact=True)
    assert found == Scores(0.75, 0.0, 1.0) and found.refusal_blank is found.refusal_own is None
