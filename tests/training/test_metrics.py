"""The recorder: rows in order, speed from real tokens and model FLOPs, nothing fetched too early."""

import json

import jax
import jax.numpy as jnp
import pytest

from vlm_mu_jax.errors import JobError
from vlm_mu_jax.parallel.chips import CHIPS
from vlm_mu_jax.training import flops
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.metrics import AHEAD, EVERY, Recorder


class Clock(Goodput):
    """Two seconds of steps, between any two looks."""

    spent = 0.0

    def seconds(self):
        self.spent += 2.0
        return {"step": self.spent, "data": 0.0, "setup": self.spent}


def add(recorder, steps):
    for step in steps:
        recorder.add(step, {"loss": jnp.float32(step)}, {"learning_rate": 0.1, "tokens": 60, "flops": 989e12})


def test_rows_come_in_order_and_late(tmp_path):
    shown = []
    with Recorder(tmp_path, 0, Clock(), shown.append) as recorder:
        add(recorder, range(1, EVERY + AHEAD))
        assert not shown
        add(recorder, [EVERY + AHEAD])
        assert [row["step"] for row in shown] == [EVERY]
        recorder.flush()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, EVERY + AHEAD + 1))
    assert all(row["loss"] == row["step"] and "mfu" not in row for row in rows)
    assert recorder.history()["loss"].tolist() == [row["loss"] for row in rows]


def test_speed_counts_real_tokens_and_model_flops(monkeypatch):
    monkeypatch.setattr(flops, "chip_of", lambda kind: CHIPS["H200"])
    with Recorder(None, 0, Clock()) as recorder:
        recorder.start(jax.devices()[:1])
        add(recorder, range(1, 5))
        recorder.flush()
    history = recorder.history()
    assert history["seconds"].tolist() == [0.5] * 4  # two seconds for four steps
    assert history["tokens_per_second"].tolist() == [120.0] * 4
    assert history["mfu"].tolist() == [2.0] * 4  # one second's worth of FLOPs in half a second
    assert "tokens" not in history


def test_a_number_that_is_not_finite_is_named():
    with Recorder(None, 0, Clock()) as recorder, pytest.raises(JobError, match="step 2: not finite: loss nan"):
        recorder.add(1, {"loss": jnp.float32(1)}, {"tokens": 1, "flops": 1.0})
        recorder.add(2, {"loss": jnp.float32(jnp.nan)}, {"tokens": 1, "flops": 1.0})
        recorder.flush()
    assert recorder.history()["loss"].tolist() == [1.0]
