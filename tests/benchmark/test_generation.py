"""bin/bench generate: both sides make the same tokens (it fails otherwise)."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
def test_rows():
    pytest.importorskip("torch")
    assert list(tiny_rows("generate")) == ["ragged", "shared_image"]
