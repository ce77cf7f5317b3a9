"""Scores of a guard setting: the worse condition counts, and nonsense is told from refusal."""

import io
from dataclasses import asdict

import pytest
from PIL import Image

from vlm_mu_jax.cli.guard_heatmap import heat_map
from vlm_mu_jax.cli.guard_trials import scores_of
from vlm_mu_jax.steering.selection import Candidate, Scores


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
    assert scores_of(share, exact=True) == Scores(0.5, 0.25, 0.5, 0.25, **refusals, answered_harmful=0.25)
    assert scores_of(share, exact=False).right_harmless is None


def test_a_text_only_model_has_no_scores_by_image():
    found = scores_of({("unsafe", "none"): shares(0.75), ("safe", "none"): shares(0.0)}, exact=True)
    assert found == Scores(0.75, 0.0, 1.0, answered_harmful=0.25) and found.refusal_blank is found.refusal_own is None


def test_heat_map_is_a_picture_of_every_row_and_column():
    off = {**asdict(Candidate("off", 0.0, (), "none")), **asdict(Scores(0, 0)), "feasible": True}
    tried = [Candidate("add", s, layers, "midpoint") for s in (1.0, 2.0) for layers in ((1,), (1, 2))][:3]
    rows = [off] + [{**asdict(c), **asdict(Scores(0.5, 0.1)), "feasible": c.strength < 2} for c in tried]
    made = heat_map(rows, asdict(tried[0]))
    picture = Image.open(io.BytesIO(made))
    assert picture.format == "PNG" and picture.width > 400
    assert made != heat_map(rows, asdict(tried[1])), "the frame must show which one was chosen"
    assert heat_map([off], off)  # nothing to try but "off"
