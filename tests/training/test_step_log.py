"""The console line of a training step."""

import time

from vlm_mu_jax.training.step_log import StepLog, line

ROW = {"step": 20.0, "loss": 1.23456, "seconds": 0.4123, "tokens_per_second": 5120.4, "goodput": 0.873}


def test_mfu_is_shown_where_the_peak_is_known():
    assert line(ROW, 250) == "step 20/250  loss 1.235  0.412 s/step  5,120 tokens/s  goodput 87 %"
    assert "5,120 tokens/s  MFU 41.2 %  goodput" in line(ROW | {"mfu": 0.4121}, 250)


def test_fast_steps_do_not_flood_the_console(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = StepLog(steps=40, every_seconds=10)
    for step, seconds in ((10, 0), (20, 1), (30, 10), (40, 1)):
        now[0] += seconds
        log(ROW | {"step": step})
    shown = [text.split()[1] for text in capsys.readouterr().err.splitlines()]
    assert shown == ["10/40", "30/40", "40/40"]
