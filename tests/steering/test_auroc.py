"""The AUROC and its interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.steering.auroc import auroc, auroc_interval


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    wins = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(wins)


@given(st.floats(0, 1), st.integers(2, 300), st.integers(2, 300))
@settings(max_examples=50, deadline=None)
def test_auroc_interval_holds_the_value_and_keeps_a_width(value, positive, negative):
    low, high = auroc_interval(value, positive, negative)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.001


def test_auroc_interval_covers_the_truth():
    """Two normals one standard deviation apart: the true AUROC is Phi(1 / sqrt 2) = 0.7602; 95 % must cover it."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        positive, negative = rng.normal(1, 1, 40), rng.normal(0, 1, 40)
        low, high = auroc_interval(auroc(positive, negative), 40, 40)
        hits += low <= 0.7602 <= high
    assert hits >= 0.92 * 300
