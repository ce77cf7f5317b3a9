"""bin/bench guard: what steering costs, as tokens/s guarded over unguarded."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    rows = tiny_rows("guard")
    assert list(rows) == ["decode", "prefill", "first_pass"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows.values())
