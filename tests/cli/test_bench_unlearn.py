"""bin/bench unlearn: both sides have the same first loss (it fails otherwise)."""

import pytest

from tests.cli.bench_result import tiny_rows


@pytest.mark.slow
def test_rows():
    pytest.importorskip("torch")
    assert list(tiny_rows("unlearn")) == ["npo", "rmu"]
