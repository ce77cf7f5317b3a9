"""Runs a suite of bin/bench at its smallest and checks the shape of the result; timings are not looked at."""

import json

from tests.command import run_command

KEYS = {"name", "ours", "peer", "unit", "ratio", "floor"}


def tiny_rows(suite, *arguments):
    """The rows by name."""
    done = run_command("bench", suite, "--size=tiny", "--rows=2", "--repeats=1", "--json", *arguments, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"suite", "device", "versions", "rows"} and result["suite"] == suite
    for row in result["rows"]:
        assert row.keys() >= KEYS
        if row["peer"] is not None:
            assert abs(row["ratio"] - row["ours"] / row["peer"]) < 1e-9 * row["ratio"]
    return {row["name"]: row for row in result["rows"]}
