"""Intervals and tests against scipy, closed forms and the values of the literature."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlm_mu_jax.evaluation.statistics import holm, mcnemar, mcnemar_p, proportion, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 442, 0, 0.0086), (0, 128, 0, 0.029), (0, 100, 0, 0.037), (45, 442, 0.077, 0.134), (8, 100, 0.041, 0.150)],
)
def test_known_intervals(k, n, low, high):
    found = wilson(k, n)
    digits = 4 if high < 0.01 else 3
    assert (round(found[0], digits), round(found[1], digits)) == (low, high)


counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_interval_agrees_with_scipy_and_holds_the_value(kn):
    k, n = kn
    reference = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    metric = proportion(k, n)
    assert math.isclose(metric.low, reference.low, abs_tol=1e-12) and math.isclose(
        metric.high, reference.high, abs_tol=1e-12
    )
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.low < metric.high  # also at 0 and n of n, where a bootstrap has no width


@given(counts)
def test_interval_is_symmetric(kn):
    k, n = kn
    (low, high), (low2, high2) = wilson(k, n), wilson(n - k, n)
    assert math.isclose(low, 1 - high2, abs_tol=1e-12) and math.isclose(high, 1 - low2, abs_tol=1e-12)


def test_no_proportion():
    assert proportion(0, 0).value is None
    for k, n in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError):
            wilson(k, n)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(6, 0, 0.03125), (5, 0, 0.0625), (0, 6, 0.03125), (0, 0, 1), (3, 3, 1), (1, 2, 1)]
)
def test_known_mcnemar(b, c, p):
    assert mcnemar_p(b, c) == pytest.approx(p)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial(b, c):
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    assert mcnemar_p(b, c) == pytest.approx(min(1.0, float(2 * tail / 2 ** (b + c))), rel=1e-9)
    assert mcnemar_p(b, c) == mcnemar_p(c, b)


def test_mcnemar_pairs_by_key():
    before = {"a": True, "b": True, "c": False, "only before": True}
    now = {"b": False, "a": False, "c": True, "only now": False}
    test = mcnemar(before, now)
    assert (test.n, test.b, test.c) == (3, 2, 1)


def test_known_holm():
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert [round(p, 4) for p, _ in adjusted] == [0.03, 0.06, 0.06, 0.02]
    assert [significant for _, significant in adjusted] == [True, False, False, True]
    assert holm([]) == []


@settings(max_examples=30)  # statsmodels collects garbage in every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_stops_at_the_first_failure(p_values):
    adjusted = holm(p_values)
    reject, m = dict.fromkeys(range(len(p_values)), False), len(p_values)
    for rank, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        if p_values[i] > 0.05 / (m - rank):
            break
        reject[i] = True
    assert [significant for _, significant in adjusted] == list(reject.values())
    assert all(p <= q <= 1 for p, (q, _) in zip(p_values, adjusted, strict=True))
