"""bin/bench train: every way of training runs and says what it costs; without a known chip there is no MFU."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    rows = tiny_rows("train")
    assert list(rows) == ["npo-lora", "npo-full", "rmu"]
    for row in rows.values():
        assert row["ours"] > 0 and row["peer"] is None and row["mfu"] is None and row["memory_peak"] > 0
        assert row["batch"] == "2 x 2 x 48"
    assert rows["rmu"]["step_tflop"] < rows["npo-full"]["step_tflop"] / 2  # it ends at its layer
