"""bin/bench weights on a tiny GGUF file: both sides make the same tokens and losses (it fails otherwise)."""

import pytest

pytest.importorskip("torch")

from tests.command import run_command
from tests.conversion.gguf_checkpoints import SIZES, save_gguf
from tests.conversion.hf_checkpoints import make_llama
from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.suites import real_weights

MODEL = {**SIZES, "vocab_size": 265, "num_key_value_heads": 4}


@pytest.mark.slow
def test_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(real_weights, "ROWS", (1, 8))
    monkeypatch.setattr(real_weights, "NEW_TOKENS", 6)
    monkeypatch.setattr(real_weights, "WORDS", 20)
    monkeypatch.setattr(real_weights, "read_speed", lambda: 1e9)
    monkeypatch.setattr(timing, "matmul_speed", lambda: 1e12)
    file = save_gguf(make_llama(7, **MODEL, max_position_embeddings=512), tmp_path / "tiny.gguf")
    result = real_weights.measure(BenchmarkOptions(tmp_path, rows=1, repeats=1, weights=file))
    rows = {row["name"]: row for row in result["rows"]}
    names = [f"generate_{dtype}_{number}" for dtype in ("float32", "bfloat16") for number in (1, 8)]
    assert list(rows) == [*names, "one_word", "npo_lora"]
    assert rows["one_word"]["words"] > 8 and rows["one_word"]["max_difference"] < 2e-3
    assert rows["generate_float32_8"]["same"] == 1 and rows["npo_lora"]["ratio"] > 0
    one, many = rows["generate_float32_1"], rows["generate_bfloat16_8"]
    assert abs(many["floor"] / one["floor"] - 16) < 1e-6  # half the bytes, eight times the rows
    assert rows["generate_float32_8"]["products"] > 0
    assert not any("products" in row for row in (one, many))


def test_the_file_is_asked_for():
    done = run_command("bench", "weights")
    assert done.returncode == 2 and "needs --weights=FILE.gguf" in done.stderr
