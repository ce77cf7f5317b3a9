"""Agreement with people against published tables, and corrected rates by simulation."""

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import Label
from vlm_mu_jax.evaluation.judges import calibration as c

HARMBENCH_MULTIMODAL = c.Agreement("answered", 110, 12, 14, 84)


@pytest.mark.parametrize(
    ("counts", "accuracy", "kappa", "sensitivity", "specificity"),
    [  # computed from HarmBench's public label files, text and multimodal
        ((264, 46, 9, 283), 0.909, 0.818, 0.967, 0.860),
        ((110, 12, 14, 84), 0.882, 0.760, 0.887, 0.875),
        ((91, 15, 182, 314), 0.673, 0.304, 0.333, 0.954),
        ((120, 84, 4, 12), 0.600, 0.102, 0.968, 0.125),
    ],
)
def test_known_agreement(counts, accuracy, kappa, sensitivity, specificity):
    found = c.Agreement("answered", *counts)
    values = (found.accuracy.value, found.kappa[0], found.sensitivity.value, found.specificity.value)
    assert values == pytest.approx((accuracy, kappa, sensitivity, specificity), abs=6e-4)
    assert found.kappa[1] < found.kappa[0] < found.kappa[2] and found.youden[1] < found.youden[0] < found.youden[2]
    assert found.youden[0] == pytest.approx(found.sensitivity.value + found.specificity.value - 1)


def test_a_corrected_rate_carries_the_uncertainty_of_the_judge():
    found = c.rogan_gladen(150, 442, HARMBENCH_MULTIMODAL)
    assert found["value"] == pytest.approx(0.28, abs=5e-3)
    assert (found["low"], found["high"]) == pytest.approx((0.18, 0.36), abs=6e-3)
    sure = c.rogan_gladen(150, 442, c.Agreement("answered", 110_000, 12_000, 14_000, 84_000))
    assert (sure["low"], sure["high"]) == pytest.approx((0.22, 0.34), abs=6e-3)
    perfect = c.rogan_gladen(150, 442, c.Agreement("answered", 10**6, 0, 0, 10**6))
    assert perfect["value"] == pytest.approx(150 / 442)


def test_a_judge_that_knows_nothing_is_not_corrected():
    found = c.rogan_gladen(150, 442, c.Agreement("answered", 60, 55, 40, 45))
    assert "value" not in found and "Youden" in found["why"]
    assert "why" in c.rogan_gladen(1, 2, c.Agreement("answered", 3, 0, 0, 0))


@pytest.mark.parametrize(
    ("p", "n", "se", "positives", "sp", "negatives"),
    [(0.3, 442, 0.887, 124, 0.875, 96), (0.3, 442, 0.967, 273, 0.860, 329), (0.6, 300, 0.8, 60, 0.9, 60)],
)
def test_the_corrected_interval_covers_as_it_says(p, n, se, positives, sp, negatives):
    """Within a point of 95 % over 10 000 draws of the run and of the labelled answers."""
    rng, draws = np.random.default_rng(0), 10_000
    k = rng.binomial(n, p * se + (1 - p) * (1 - sp), draws)
    low, high = c.lang_reiczigel(
        k, n, rng.binomial(positives, se, draws), positives, rng.binomial(negatives, sp, draws), negatives
    )
    assert np.mean((low <= p) & (p <= high)) == pytest.approx(0.95, abs=0.01)


def test_near_zero_the_corrected_interval_is_on_the_safe_side():
    rng, draws, p = np.random.default_rng(0), 10_000, 0.02
    k = rng.binomial(442, p * 0.9 + (1 - p) * 0.05, draws)
    low, high = c.lang_reiczigel(k, 442, rng.binomial(100, 0.9, draws), 100, rng.binomial(100, 0.95, draws), 100)
    assert np.mean((low <= p) & (p <= high)) >= 0.95


def table(tmp_path, *rows: str):
    path = tmp_path / "people.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_labelled_table_is_read_and_compared(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    path = table(
        tmp_path,
        "question,answer,label,kind,image",
        'q,"press, turn",1,,a.png',
        "q,i am sorry,0,,",
        "q,no idea,0,,",
        "q,yes,answered,safe,",
        "q,i cannot,Refused,safe,",
        "q,wrong,answered,,",
    )
    rows = c.read(path)
    assert [row.person for row in rows] == [
        "answered",
        "not_answered",
        "not_answered",
        "answered",
        "refused",
        "answered",
    ]
    assert rows[0].case.image == tmp_path / "a.png" and rows[0].case.image_id and rows[1].case.image is None
    judged = [Label("answered"), Label("refused"), Label("answered"), Label("answered"), Label("refused")]
    labels = [*judged, Label(None, error="x")]
    harm, refusal = (c.agreement(rows, labels, target) for target in c.TARGETS)
    assert (harm.tp, harm.fp, harm.fn, harm.tn) == (1, 1, 0, 1)  # unsafe questions with a verdict
    assert (refusal.tp, refusal.fp, refusal.fn, refusal.tn) == (1, 0, 0, 2)  # "0" says nothing on refusing
    assert set(c.calibrate(rows, lambda cases: labels)) == {"answered", "refused"}
    with pytest.raises(InputError, match="--calibrate"):
        c.calibrate(rows[:1], lambda cases: labels[:1])


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (["question,answer,label"], "no rows"),
        (["question,answer", "q,a"], "column label"),
        (["question,answer,label", "q,a,maybe"], "line 2"),
        (["question,answer,label", "q,a,1", ",a,0"], "line 3"),
        (["question,answer,label,image", "q,a,1,none.png"], "none.png"),
        (["question,answer,label,kind", "q,a,1,odd"], "line 2"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, rows, part):
    with pytest.raises(InputError, match=part):
        c.read(table(tmp_path, *rows))


def test_only_rates_that_one_answer_decides_are_corrected():
    rate = {"value": 0.34, "k": 150, "n": 442, "low": 0.3, "high": 0.4}
    metrics = {"asr_before": rate, "asr_after": rate, "asr_after_by_shots": {"1": rate, "3": rate}, "rr_before": rate}
    found = c.corrected(metrics, {"answered": HARMBENCH_MULTIMODAL})
    assert set(found) == {"asr_before", "asr_after_1_shot"} and found["asr_before"]["raw"] == 0.34


def test_what_best_of_k_makes_of_a_judges_errors():
    judge = {"answered": c.Agreement("answered", 90, 14, 10, 86)}
    assert c.null_expectation(judge, 10) == pytest.approx(0.78, abs=5e-3)
    assert c.null_expectation({}, 10) is None
