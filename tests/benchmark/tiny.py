"""Runs a suite of bin/bench at its smallest and checks the shape of the result; timings are not looked at."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

KEYS = {"name", "ours", "peer", "unit", "ratio", "floor"}


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def tiny_rows(suite, *arguments):
    """The rows by name."""
    command = [sys.executable, "-m", "vlm_mu_jax.cli.bench", suite, "--size=tiny", "--rows=2", "--repeats=1", "--json"]
    done = subprocess.run([*command, *arguments], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"suite", "device", "versions", "rows"} and result["suite"] == suite
    for row in result["rows"]:
        assert row.keys() >= KEYS
        if row["peer"] is not None:
            assert abs(row["ratio"] - row["ours"] / row["peer"]) < 1e-9 * row["ratio"]
    return {row["name"]: row for row in result["rows"]}
