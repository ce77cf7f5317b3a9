"""Metrics: rates that add up, any-of-K over shots, questions without a verdict, and short-answer accuracy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.evaluation import metrics as m
from vlm_mu_jax.evaluation.judges import LABELS

words = st.sampled_from(["what", "list"])
one = st.builds(m.Outcome, st.sampled_from("abcde"), words, st.integers(0, 3), st.sampled_from(LABELS))
outcomes = st.lists(one, max_size=40)


@given(outcomes)
def test_answered_refused_and_irrelevant_add_up(rows):
    asr, rr, ir = m.asr(rows), m.rr(rows), m.ir(rows)
    assert asr.n == rr.n == ir.n == len({r.id for r in rows})
    assert asr.k + rr.k + ir.k == asr.n


@given(outcomes)
def test_any_of_k_never_falls_with_more_shots(rows):
    curve = list(m.by_shots(rows).values())
    hits = [metric.k for metric in curve]
    assert hits == sorted(hits) and all(a.n <= b.n for a, b in zip(curve, curve[1:], strict=False))
    if curve:
        assert curve[-1] == m.asr(rows)


@given(outcomes)
def test_the_order_of_answers_does_not_matter(rows):
    assert m.verdicts(rows) == m.verdicts(rows[::-1])


def test_shots_of_one_question_are_one_unit():
    rows = [
        m.Outcome("a", "w", 0, "refused"),
        m.Outcome("a", "v", 1, "answered"),
        m.Outcome("b", "w", 0, "refused"),
        m.Outcome("b", "v", 1, "irrelevant"),
    ]
    assert m.verdicts(rows) == {"a": "answered", "b": "irrelevant"}
    assert (m.asr(rows).value, m.asr(rows).n) == (0.5, 2)
    assert {k: v.value for k, v in m.by_shots(rows).items()} == {"1": 0, "2": 0.5}
    assert {w: v.value for w, v in m.by_word(rows, "answered").items()} == {"w": 0, "v": 0.5}


def test_a_missing_verdict_leaves_the_denominator_unless_it_changes_nothing():
    rows = [
        m.Outcome("a", "w", 0, None),
        m.Outcome("a", "v", 1, "answered"),
        m.Outcome("b", "w", 0, None),
        m.Outcome("b", "v", 1, "refused"),
    ]
    assert m.verdicts(rows) == {"a": "answered", "b": None}
    assert (m.asr(rows).k, m.asr(rows).n) == (1, 1)


def test_no_question_no_rate():
    assert m.asr([]).value is None and m.asr([]).n == 0 and m.by_shots([]) == {} and m.by_word([], "answered") == {}


@pytest.mark.parametrize(
    ("answer", "reference", "held", "equal"),
    [
        ("it is red .", "red", True, False),
        ("The Red!", "red", True, True),
        ("I do not know", "no", False, False),
        ("dark red circle", "red circle", True, False),
        ("red big circle", "red circle", False, False),
        ("", "red", False, False),
        ("red", "", False, False),
    ],
)
def test_short_answers(answer, reference, held, equal):
    assert m.matches(answer, reference) is held and m.matches(answer, reference, exact=True) is equal


def test_degenerate_answers_by_kind():
    rate, kinds = m.degenerate(["fine", "", "no no no no", "xq7zt k3jd8 9qwx2 fj30dk"])
    assert (rate.k, rate.n) == (3, 4)
    assert {name: metric.k for name, metric in kinds.items()} == {"empty": 1, "repetition": 1, "non_words": 1}
    assert m.degenerate([])[0].value is None
