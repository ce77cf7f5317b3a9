"""Only sides that did the same work are compared."""

import pytest

from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.errors import JobError


def test_sides_that_disagree_are_not_compared():
    sides = (lambda: (1.0, 0.1)), (lambda: (2.0, 0.2))
    with pytest.raises(JobError, match="did not compute the same"):
        timing.compare("x", *sides, count=1, unit="x/s", agrees=lambda a, b: a == b, repeats=1)
    row = timing.compare("x", *sides, count=6, unit="x/s", agrees=lambda a, b: a < b, repeats=3)
    assert row["ours"] == pytest.approx(60) and row["peer"] == pytest.approx(30) and row["ratio"] == pytest.approx(2)
