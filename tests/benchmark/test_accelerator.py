"""bin/bench accelerator on the smallest model: the checks can fail, rows are written as they come, time can run out."""

import json

from vlm_mu_jax.benchmark import BenchmarkOptions, measure
from vlm_mu_jax.benchmark.suites import accelerator, accelerator_checks


def test_every_program_has_its_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "checks", lambda seed: [accelerator_checks._row("a check", 0.0, 1.0)])
    kept = accelerator.programs
    monkeypatch.setattr(accelerator, "programs", lambda cfg, size: [kept(cfg, size)[i] for i in (0, 4)])
    found = measure("accelerator", BenchmarkOptions(tmp_path, "tiny", repeats=1))
    check, decode, lora = found["rows"]
    assert check["holds"] and (decode["name"], lora["name"]) == ("decode, 1 prompt", "NPO, LoRA")
    for row in (decode, lora):
        assert row["seconds"] > 0 and 0 < row["mfu"] and row["planned_gib"] > 0
        assert row["tokens_per_second"] > 0
    assert json.loads((tmp_path / "accelerator.json").read_text())["rows"] == found["rows"]
    assert "| NPO, LoRA |" in (tmp_path / "accelerator.md").read_text()


def test_when_the_time_is_over_the_rest_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "checks", lambda seed: [])
    rows = measure("accelerator", BenchmarkOptions(tmp_path, "tiny", repeats=1, minutes=1e-9))["rows"]
    assert len(rows) == 6 and all("were over" in row["left_out"] for row in rows)


def test_a_kernel_without_the_window_is_found(monkeypatch):
    assert accelerator_checks._logits("cpu", 64, 0)["holds"]
    monkeypatch.setattr(accelerator_checks, "_chosen", lambda cfg, _: ("broken", cfg.with_text(sliding_window=None)))
    assert not accelerator_checks._logits("cpu", 64, 0)["holds"]
