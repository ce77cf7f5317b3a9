"""bin/bench convert: the checkpoint comes back byte for byte (it fails otherwise), and leaves nothing behind."""

import numpy as np
from safetensors.numpy import load_file

from tests.benchmark.tiny import tiny_rows
from vlm_mu_jax.benchmark.suites.conversion import differing, make_checkpoint


def test_rows(tmp_path):
    rows = tiny_rows("convert", f"--workdir={tmp_path}")
    assert list(rows) == ["copy", "export"]
    assert all(0 < row["memory_ours"] < 2**31 and row["unit"] == "GB/s" for row in rows.values())
    assert not any(tmp_path.iterdir())


def test_its_numbers_are_finite_and_its_tensors_differ(tmp_path):
    make_checkpoint(tmp_path / "hf", "tiny", seed=0)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(
        np.isfinite(x.astype(np.float32)).all() and np.abs(x.astype(np.float32)).max() < 2 for x in tensors.values()
    )
    assert len({x.tobytes() for x in tensors.values()}) == len(tensors)


def test_a_changed_file_is_found(tmp_path):
    for name, content in (("one", b"abc"), ("other", b"abd")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    assert differing(tmp_path / "one", tmp_path / "one") == []
    assert differing(tmp_path / "one", tmp_path / "other") == ["model.safetensors"]
