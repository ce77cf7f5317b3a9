"""bin/bench unlearn: both sides have the same first loss (it fails otherwise); memory and floors stand beside."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    pytest.importorskip("torch")
    rows = tiny_rows("unlearn")
    assert list(rows) == ["npo", "rmu"]
    for row in rows.values():
        assert row["ours_first_epoch"] < row["ours"]  # what is computed once costs something
        assert row["floor_peer"] < row["floor"]  # and leaves less to compute in a step
        assert row["memory_ours"] > 100e6 and row["memory_peer"] > 100e6  # bytes, not pages or KiB
