"""bin/bench attention: both sides compute the same (it fails otherwise)."""

from tests.benchmark.tiny import tiny_rows


def test_rows():
    assert list(tiny_rows("attention")) == ["forward", "gradient"]
