"""The float16 copy of a GGUF file: the same model, its matrices rounded once."""

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.conversion.gguf_checkpoints import SIZES, save_gguf
from tests.conversion.hf_checkpoints import make_llama
from vlm_mu_jax.conversion.gguf_copy import write_float16
from vlm_mu_jax.conversion.importer import ConvertOptions, import_checkpoint
from vlm_mu_jax.model.params import flatten

MODEL = {**SIZES, "vocab_size": 265}


def test_the_copy_is_the_same_model_in_float16(tmp_path):
    source = save_gguf(make_llama(41, **MODEL), tmp_path / "q.gguf", "Q4_1")
    write_float16(source, tmp_path / "half.gguf")
    got, want = (
        import_checkpoint(tmp_path / name, ConvertOptions(dtype="float32")) for name in ("half.gguf", "q.gguf")
    )
    assert got.config == want.config
    theirs = flatten(want.params)
    for path, leaf in flatten(got.params).items():
        rounded = theirs[path] if "norm" in path else theirs[path].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(leaf, rounded, path)
