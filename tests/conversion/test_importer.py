"""Reading Hugging Face folders: strict both ways, and every fault is one readable error."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.conversion.hf_checkpoints import edit_json, make_llama, make_llava, save
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.conversion.tensor_files import INDEX, SINGLE
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten

NORM = "language_model.model.norm.weight"
QUERY = "language_model.model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One LLaVA checkpoint as transformers writes it; tests change copies of it."""
    return save(make_llava(0, text={"num_hidden_layers": 2}), tmp_path_factory.mktemp("llava"))


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def change(folder, drop=(), add=None, file=SINGLE):
    """Rewrites a safetensors file without some tensors and with others."""
    tensors = {key: value for key, value in load_file(folder / file).items() if key not in drop}
    save_file(tensors | (add or {}), folder / file, metadata={"format": "pt"})


def message(folder, **options):
    with pytest.raises(InputError) as caught:
        importer.import_checkpoint(folder, importer.ConvertOptions(**options))
    return str(caught.value)


def test_weights_arrive_unchanged_in_every_dtype(tmp_path):
    for name, dtype in (("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        model = make_llama(3, num_hidden_layers=2).to(getattr(torch, name))
        got = importer.import_checkpoint(save(model, tmp_path / name))
        weight = got.params["decoder"]["layers"]["wup_LDF"]
        want = model.model.layers[1].mlp.up_proj.weight.float().detach().numpy().T
        assert weight.dtype == dtype and got.dtype == name
        np.testing.assert_array_equal(weight[1].astype(np.float32), want)


def test_shards_give_the_same_tree_as_one_file(saved, tmp_path):
    save(make_llava(0, text={"num_hidden_layers": 2}), tmp_path, max_shard_size="20KB")
    assert (tmp_path / INDEX).exists() and not (tmp_path / SINGLE).exists()
    one, many = importer.import_checkpoint(saved), importer.import_checkpoint(tmp_path)
    assert len(many.provenance["sha256"]) > 2
    for path, leaf in flatten(one.params).items():
        np.testing.assert_array_equal(leaf, flatten(many.params)[path])


def test_dtype_casts_every_tensor(saved):
    got = importer.import_checkpoint(saved, importer.ConvertOptions(dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in flatten(got.params).values()} == {"bfloat16"}
    assert got.dtype == "bfloat16" and got.provenance["cast_to"] == "bfloat16"


def test_provenance_names_every_source_file(saved):
    import hashlib

    got = importer.import_checkpoint(saved).provenance
    assert got["sha256"] == {SINGLE: hashlib.sha256((saved / SINGLE).read_bytes()).hexdigest()}
    assert got["dialect"] == "llava_v5" and "jax" in got["packages"]


def test_recomputed_buffers_are_ignored(checkpoint):
    extra = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32),
        "vision_tower.vision_model.embeddings.position_ids": np.arange(5)[None],
    }
    change(checkpoint, add=extra)
    importer.import_checkpoint(checkpoint)


def test_a_tied_head_may_be_stored_again_but_not_differ(tmp_path):
    save(make_llama(1, tie_word_embeddings=True), tmp_path)
    embedding = load_file(tmp_path / SINGLE)["model.embed_tokens.weight"]
    change(tmp_path, add={"lm_head.weight": embedding})
    importer.import_checkpoint(tmp_path)
    change(tmp_path, add={"lm_head.weight": embedding + 1})
    assert "tie_word_embeddings" in message(tmp_path)


def test_missing_tensor(checkpoint):
    change(checkpoint, drop=[NORM])
    assert f"{NORM} is missing" in message(checkpoint)


def test_unused_tensor(checkpoint):
    change(checkpoint, add={"language_model.model.layers.2.mlp.up_proj.weight": np.ones((2, 2), np.float32)})
    assert "layers.2.mlp.up_proj.weight is not used" in message(checkpoint)


def test_wrong_shape_names_both_shapes(checkpoint):
    change(checkpoint, add={NORM: np.ones(5, np.float32)})
    width = json.loads((checkpoint / "config.json").read_text())["text_config"]["hidden_size"]
    assert f"{NORM} has shape [5], config.json calls for [{width}]" in message(checkpoint)


def test_every_problem_is_reported_at_once(checkpoint):
    extra = {NORM: np.ones(5, np.float32), "surplus": np.ones(1, np.float32), "another": np.ones(1, np.float32)}
    change(checkpoint, drop=[QUERY], add=extra)
    text = message(checkpoint)
    assert "4 problems" in text
    for part in (f"{QUERY} is missing", f"{NORM} has shape", "surplus is not used", "another is not used"):
        assert part in text


def test_config_of_another_model(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "layers.2.input_layernorm.weight is missing" in message(checkpoint)


def test_quantised_tensors_are_refused(checkpoint):
    query = load_file(checkpoint / SINGLE)[QUERY]
    change(checkpoint, add={QUERY: query.astype(np.int8)})
    assert f"{QUERY} has dtype I8" in message(checkpoint)


def test_layers_of_several_dtypes_need_a_choice(checkpoint):
    query = load_file(checkpoint / SINGLE)[QUERY]
    change(checkpoint, add={QUERY: query.astype(np.float16)})
    assert "--dtype" in message(checkpoint)
    importer.import_checkpoint(checkpoint, importer.ConvertOptions(dtype="float32"))


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file_is_one_line(checkpoint, keep):
    data = (checkpoint / SINGLE).read_bytes()
    (checkpoint / SINGLE).write_bytes(data[:keep])
    text = message(checkpoint)
    assert SINGLE in text and "cut short" in text and "\n" not in text


def test_missing_shard_and_broken_index(tmp_path):
    save(make_llava(0), tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    moved = shard.rename(tmp_path / "away")
    assert f"{shard.name} is missing from the folder" in message(tmp_path)
    moved.rename(shard)
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    assert INDEX in message(tmp_path)
    (tmp_path / INDEX).write_text("{")
    assert "JSON" in message(tmp_path)


def test_folders_that_are_no_checkpoint(tmp_path, checkpoint):
    assert "config.json: missing" in message(tmp_path)
    (checkpoint / SINGLE).rename(checkpoint / "pytorch_model.bin")
    assert ".bin" in message(checkpoint)
    (checkpoint / "pytorch_model.bin").rename(checkpoint / "adapter_model.safetensors")
    assert "LoRA adapter" in message(checkpoint)


@pytest.mark.parametrize("field", ["text_config", "vision_config"])
def test_missing_config_key_is_one_line(checkpoint, field):
    edit_json(checkpoint / "config.json", **{field: None})
    text = message(checkpoint)
    assert field in text and "\n" not in text


def test_sources_that_do_not_exist(tmp_path):
    assert "no such folder" in message(tmp_path / "nothing" / "here")
    assert "cannot be fetched" in message("nobody/no-such-model")  # the hub is switched off in tests
    assert "is a file" in message(__file__)


def test_unknown_dtype(checkpoint):
    assert "--dtype=int8" in message(checkpoint, dtype="int8")
