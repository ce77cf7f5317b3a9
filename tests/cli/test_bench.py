"""bin/bench: both sides do the same work (it fails otherwise), and the result has the agreed shape."""

import json
import os
import subprocess
import sys

import pytest

ROWS = {"generate": ["ragged", "shared_image"], "unlearn": ["npo", "rmu"]}


@pytest.mark.slow
@pytest.mark.parametrize("suite", ROWS)
def test_suite(suite, root):
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "vlm_mu_jax.cli.bench", suite, "--size=tiny", "--rows=2", "--repeats=1", "--json"],
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"suite", "device", "versions", "rows"} and result["suite"] == suite
    assert {"jax", "torch", "transformers"} <= set(result["versions"])
    assert [row["name"] for row in result["rows"]] == ROWS[suite]
    for row in result["rows"]:
        assert set(row) == {"name", "ours", "peer", "unit", "ratio", "floor"}
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
