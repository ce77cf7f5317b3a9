"""bin/bench storage: both sides give back the bits that were saved (it fails otherwise)."""

from tests.benchmark.tiny import tiny_rows


def test_rows():
    assert list(tiny_rows("storage")) == ["save", "load"]
