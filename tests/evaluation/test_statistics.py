"""Intervals and tests against scipy, closed forms and the values of the literature."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlm_mu_jax.evaluation.statistics import (
    any_of_k,
    holm,
    independent_discordance,
    mcnemar,
    mcnemar_p,
    pairs_needed,
    proportion,
    questions_needed,
    wilson,
)
from vlm_mu_jax.evaluation.utility.scores import bootstrap


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


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_collected():
    """statsmodels collects garbage in every call; what earlier tests left in memory need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@settings(max_examples=30)
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


@pytest.mark.parametrize(("p", "n"), [(0.3, 442), (0.1, 442), (0.5, 100), (0.05, 1000)])
def test_the_interval_covers_as_it_says(p, n):
    """Within a point of 95 % over 10 000 draws."""
    drawn = np.random.default_rng(0).binomial(n, p, 10_000)
    held = {k: low <= p <= high for k in np.unique(drawn) for low, high in [wilson(int(k), n)]}
    assert np.mean([held[k] for k in drawn]) == pytest.approx(0.95, abs=0.01)


def test_mcnemar_keeps_its_level():
    """Equal models: the exact test calls at most 5 % different, over 10 000 draws."""
    b, c, _ = np.random.default_rng(0).multinomial(200, [0.1, 0.1, 0.8], 10_000).T
    p = {pair: mcnemar_p(*map(int, pair)) for pair in set(zip(b, c, strict=True))}
    assert np.mean([p[pair] < 0.05 for pair in zip(b, c, strict=True)]) <= 0.05


@pytest.mark.parametrize(("difference", "discordant"), [(0.1, 0.2), (0.05, 0.1), (0.2, 0.5), (0.1, 0.1)])
def test_so_many_pairs_show_the_difference(difference, discordant):
    """The exact test finds it in at least 80 % of 10 000 runs of that size, and in not many more."""
    n = pairs_needed(difference, discordant)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    b, c, _ = np.random.default_rng(0).multinomial(n, shares, 10_000).T
    p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5))
    assert 0.8 <= np.mean(p < 0.05) <= 0.94


@pytest.mark.parametrize(("rate", "other"), [(0.3, 0.2), (0.02, 0.12), (1.0, 0.9)])
def test_so_many_questions_show_the_difference(rate, other):
    n = questions_needed(rate, 0.1)
    drawn = np.random.default_rng(0).binomial(n, [[rate], [other]], (2, 10_000)) / n
    pooled = drawn.mean(0)
    z = np.abs(drawn[0] - drawn[1]) / np.sqrt(2 * pooled * (1 - pooled) / n + 1e-12)
    assert 0.78 <= np.mean(z > 1.96) <= (0.82 if rate == 0.3 else 0.96)  # at the ends counts are few: on the safe side


def test_differences_that_cannot_be():
    for bad in ((1.2, 0.1), (0.3, 0), (0.5, 0.8)):
        with pytest.raises(ValueError):
            questions_needed(*bad)
    for bad in ((0.3, 0.2), (0, 0.2)):
        with pytest.raises(ValueError):
            pairs_needed(*bad)


def test_unrelated_models_differ_most():
    assert independent_discordance(0.3, 0.1) == pytest.approx(0.3 * 0.8 + 0.2 * 0.7)


def test_any_of_k():
    assert any_of_k(0.14, 10) == pytest.approx(0.78, abs=5e-3) and any_of_k(0.14, 1) == pytest.approx(0.14)
    drawn = np.random.default_rng(0).random((10_000, 5)) < 0.1
    assert any_of_k(0.1, 5) == pytest.approx(drawn.any(axis=1).mean(), abs=0.015)
    for bad in ((1.1, 2), (0.5, 0)):
        with pytest.raises(ValueError):
            any_of_k(*bad)


def test_the_bootstrap_by_question_covers_as_it_says():
    """A composite: the mean of what each of 150 questions scores in 0..1. Within a point over 10 000 draws."""
    seen, units = [], 150
    bootstrap(lambda weights_EU: seen.append(weights_EU) or weights_EU @ np.ones(units), units)
    weights_EU = max(seen, key=len)
    rng, held = np.random.default_rng(1), []
    for _ in range(10):
        values_RU = rng.beta(0.6, 0.9, (1000, units))
        low, high = np.quantile(values_RU @ weights_EU.T / units, [0.025, 0.975], axis=1)
        held.append((low <= 0.4) & (0.4 <= high))
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)
    one = bootstrap(lambda weights_EU: weights_EU @ values_RU[0] / units, units)  # as the product computes it
    assert (one.low, one.high) == pytest.approx((low[0], high[0]))
