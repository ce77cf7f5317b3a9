"""Attribution: joins audit and search word by word, and correlates them as the textbook says."""

import numpy as np
import pytest
from scipy import stats

from vlm_mu_jax.attacks.audit import attribution
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.figures import word_effects


def row(word, position, log_odds):
    bounds = {"low": log_odds - 1, "high": log_odds + 1}
    return {"word": word, "position": position, "safe": 3, "unsafe": 4, "log_odds": log_odds} | bounds


AUDIT = {
    "rows": [row(w, "first", x) for w, x in zip("abcde", (3.0, 1.0, 0.0, -1.0, -2.0), strict=True)]
    + [row(w, "any", x) for w, x in zip("abcdvwxyz", range(9), strict=True)]
    + [row("z", "last", 7.0)]
}


def attack(effect, **changes):
    """Margins of `original` + effect(word) for the words a to d and v to z."""
    words = "abcdvwxyz"
    part = {"original_margin": 5.0, "margins": {w: 5.0 + effect(i) for i, w in enumerate(words)}}
    other = {"original_margin": -2.0, "margins": {w: -2.0 + 3 * effect(i) for i, w in enumerate(words)}}
    found = {"by_position": {"question_start": {"search": {"jailbreak": part, "over_refuse": other}}}}
    return found | {"positions": ["after_image", "question_start"]} | changes


def test_points_join_the_audit_with_the_change_of_the_margin():
    found = attribution.attribute(AUDIT, attack(lambda i: float(i)), attack(lambda i: 1.0))
    points = {p["word"]: p for p in found["points"]}
    assert list(points) == list("abcdvwxyz") and found["not_searched"] == ["e"]
    assert found["position"] == "question_start" and found["goals"] == ["jailbreak", "over_refuse"]
    assert found["models"] == [None, None]
    assert points["b"]["seen"] == "here" and points["b"]["score"] == 1.0  # the row of the position, not of "any"
    assert points["z"]["seen"] == "elsewhere" and points["z"]["score"] == 8.0
    for i, p in enumerate(points.values()):
        assert np.isclose(p["change"], 2.0 * i)  # (i + 3 i) / 2
        assert np.isclose(p["change_rebalanced"], 2.0) and np.isclose(p["removed"], 2.0 * i - 2.0)
    for name in ("change", "removed"):
        here, elsewhere = (found["correlations"][name][seen] for seen in ("here", "elsewhere"))
        assert np.isclose(here["pearson"]["value"], stats.pearsonr([3, 1, 0, -1], [0, 1, 2, 3]).statistic)
        assert np.isclose(elsewhere["spearman"]["value"], 1.0) and elsewhere["n"] == 5


def test_without_a_second_attack_there_is_no_second_question():
    found = attribution.attribute(AUDIT, attack(lambda i: float(i)))
    assert list(found["correlations"]) == ["change"] and "removed" not in found["points"][0]


def test_correlations_are_scipys_and_their_intervals_cover():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = attribution.correlation(x, y)
    assert np.isclose(found["pearson"]["value"], stats.pearsonr(x, y).statistic)
    assert np.isclose(found["spearman"]["value"], stats.spearmanr(x, y).statistic)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert abs(found["pearson"]["low"] - theirs.low) < 0.03 and abs(found["pearson"]["high"] - theirs.high) < 0.03
    tied = np.round(y)
    assert np.isclose(attribution.correlation(x, tied)["spearman"]["value"], stats.spearmanr(x, tied).statistic)


def test_intervals_of_unrelated_columns_hold_zero_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    drawn = [attribution.correlation(*rng.normal(size=(2, 40)), resamples=400)["pearson"] for _ in range(100)]
    missed = sum(one["low"] > 0 or one["high"] < 0 for one in drawn)
    assert missed <= 14  # 5 expected; the percentile bootstrap is a little short at n = 40


@pytest.mark.parametrize("x, y", [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([], [])])
def test_too_little_for_a_correlation_is_none(x, y):
    assert attribution.correlation(x, y) is None


def test_files_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="positions|none of"):
        attribution.attribute(AUDIT, attack(float, positions=["after_image"]))
    with pytest.raises(InputError, match="no margins"):
        attribution.attribute(AUDIT, {"positions": ["question_start"], "by_position": {}})
    with pytest.raises(InputError, match="no word in common"):
        attribution.attribute({"rows": [row("q", "first", 1.0)]}, attack(float))
    one_goal = attack(float)
    del one_goal["by_position"]["question_start"]["search"]["over_refuse"]
    with pytest.raises(InputError, match="different goals"):
        attribution.attribute(AUDIT, attack(float), one_goal)


def test_the_figure_names_the_words_and_the_correlation():
    found = attribution.attribute(AUDIT, attack(lambda i: float(i)), attack(lambda i: 1.0))
    drawing = word_effects.attribution([{}, {"attribution": found}])
    assert drawing.count("4 words at this place: r -0.9") == 2 and ">a</text>" in drawing
    assert "tuned on rebalanced data" in drawing, "files that name no model"
    found["models"] = ["sft", "sft_diverse"]
    assert "of this gone in sft_diverse" in word_effects.attribution([{"attribution": found}])
    assert word_effects.attribution([{}]) is None and word_effects.attribution([]) is None
