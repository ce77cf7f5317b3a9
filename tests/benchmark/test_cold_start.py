"""bin/bench cold: its rows from made-up clocks; no process is started."""

import json
import subprocess

import pytest

from vlm_mu_jax.benchmark.suites import cold_start
from vlm_mu_jax.errors import JobError


def test_the_parts_add_up(tmp_path, monkeypatch):
    def run(command, env, **_):
        assert env["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path) and command[-1] == "model"
        seen = {"imported": 103.0, "loaded": 104.0, "first": 110.0, "compiled": 4.0, "tokens": [1]}
        return subprocess.CompletedProcess(command, 0, json.dumps(seen), "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cold_start.time, "time", lambda: 100.0)
    found = cold_start.start("model", tmp_path)
    parts = [found[name] for name in ("import", "load", "compile", "rest")]
    assert parts == [3.0, 1.0, 4.0, 2.0] and found["whole"] == sum(parts)


def test_a_process_that_fails_is_one_line(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nInputError: no model")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(JobError, match="InputError: no model"):
        cold_start.start("model", tmp_path)
