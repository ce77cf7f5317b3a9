"""HF -> ours -> HF: the same bits, and transformers loads the result."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from tests.conversion.hf_checkpoints import make_llama, make_llava, make_mistral, save
from vlm_mu_jax.conversion import exporter, importer, names
from vlm_mu_jax.conversion.tensor_files import INDEX, SINGLE
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage import model_folder

LLAVA_DIALECTS = [name for name in names.DIALECTS if name.startswith("llava") and "original" not in name]


def tensors(folder):
    """Every tensor of a folder: key -> (dtype, shape, bytes)."""
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= {key: (str(x.dtype), x.shape, x.tobytes()) for key, x in load_file(file).items()}
    return found


def convert(source, out):
    done = importer.import_checkpoint(source)
    return model_folder.write_model_folder(
        out, done.params, done.hf_config, done.folder, "plain", done.dialect, done.provenance
    )


def there_and_back(source, tmp_path, **options):
    ours = convert(source, tmp_path / "ours")
    return exporter.export(ours, tmp_path / "back", exporter.ExportOptions(**options)).folder


def spell(folder, dialect):
    """Renames the tensors of a saved LLaVA to another dialect."""
    specs = param_specs(importer.import_checkpoint(folder).config)
    old = names.DIALECTS["llava_v5"]
    new_names = {a.key: b.key for a, b in zip(names.slots(specs, old), names.slots(specs, dialect), strict=True)}
    stored = load_file(folder / SINGLE)
    save_file({new_names[key]: value for key, value in stored.items()}, folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize("dialect", LLAVA_DIALECTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_llava_round_trip_is_bit_exact_in_every_dialect(dialect, dtype, tmp_path):
    source = save(make_llava(5, text={"attention_bias": True}).to(getattr(torch, dtype)), tmp_path / "hf")
    spell(source, names.DIALECTS[dialect])
    back = there_and_back(source, tmp_path)
    assert tensors(back) == tensors(source)
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())


@pytest.mark.parametrize("make", [make_llama, make_mistral])
@pytest.mark.parametrize("fixed", [{}, {"tie_word_embeddings": True}])
def test_text_round_trip_is_bit_exact(make, fixed, tmp_path):
    source = save(make(6, **fixed).half(), tmp_path / "hf")
    assert tensors(there_and_back(source, tmp_path)) == tensors(source)


def test_shards_and_index_hold_every_tensor_once(tmp_path):
    source = save(make_llava(7), tmp_path / "hf")
    back = there_and_back(source, tmp_path, shard_bytes=10_000)
    index = json.loads((back / INDEX).read_text())
    stored = {file.name: set(load_file(file)) for file in back.glob("*.safetensors")}
    assert len(stored) > 3 and all(file.stat().st_mode & 0o044 for file in back.glob("*.safetensors"))
    assert {key: file for file, keys in stored.items() for key in keys} == index["weight_map"]
    assert sum(map(len, stored.values())) == len(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in tensors(back).values())
    assert tensors(back) == tensors(source)
    assert tensors(there_and_back(back, tmp_path / "again")) == tensors(source)  # our own shards are read again


@pytest.mark.parametrize("dialect", LLAVA_DIALECTS)
def test_transformers_loads_the_export(dialect, tmp_path):
    model = make_llava(8)
    back = there_and_back(save(model, tmp_path / "hf"), tmp_path, dialect=dialect, shard_bytes=20_000)
    loaded, info = LlavaForConditionalGeneration.from_pretrained(back, output_loading_info=True)
    assert not any(info.values()), info
    for (name, want), (_, got) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(want, got), name


def test_transformers_loads_a_text_export(tmp_path):
    model = make_mistral(9, tie_word_embeddings=True)
    back = there_and_back(save(model, tmp_path / "hf"), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(back)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)


def test_a_cast_model_says_its_dtype(tmp_path):
    source = save(make_llava(10).to(torch.bfloat16), tmp_path / "hf")
    done = importer.import_checkpoint(source, importer.ConvertOptions(dtype="float32"))
    out = exporter.export_params(tmp_path / "out", done.params, done.hf_config)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert LlavaForConditionalGeneration.from_pretrained(out).dtype == torch.float32


def test_params_in_memory_are_written_in_the_released_spelling(tmp_path):
    done = importer.import_checkpoint(save(make_llava(11), tmp_path / "hf"))
    out = exporter.export_params(tmp_path / "out", done.params, done.hf_config)
    keys = set(tensors(out))
    assert {"language_model.lm_head.weight", "vision_tower.vision_model.post_layernorm.bias"} <= keys


def test_a_changed_weight_is_what_comes_out(tmp_path):
    source = save(make_llama(12, num_hidden_layers=2), tmp_path / "hf")
    done = importer.import_checkpoint(source)
    done.params["decoder"]["layers"]["wo_LNHD"][1] *= 2
    out = exporter.export_params(tmp_path / "out", done.params, done.hf_config)
    before, after = load_file(source / SINGLE), load_file(out / SINGLE)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"model.layers.1.self_attn.o_proj.weight"}


def test_a_folder_of_somebody_else_is_not_overwritten(tmp_path):
    ours = convert(save(make_llama(13), tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(InputError, match="not a folder that this command wrote"):
        exporter.export(ours, tmp_path / "hf")
    exporter.export(ours, tmp_path / "back")
    exporter.export(ours, tmp_path / "back")  # our own is replaced


def test_exporting_what_is_no_model_folder(tmp_path):
    source = save(make_llama(14), tmp_path / "hf")
    with pytest.raises(InputError, match="convert it first"):
        exporter.export(source, tmp_path / "out")
    ours = convert(source, tmp_path / "ours")
    with pytest.raises(InputError, match="dialect 'llava_v4' does not fit"):
        exporter.export(ours, tmp_path / "out", exporter.ExportOptions(dialect="llava_v4"))
