"""bin/bench generate: both sides make the same tokens (it fails otherwise)."""

import pytest

from tests.benchmark.tiny import tiny_rows


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2.5-vl"])
def test_rows(family):
    pytest.importorskip("torch")
    assert list(tiny_rows("generate", f"--family={family}")) == ["ragged", "shared_image"]
