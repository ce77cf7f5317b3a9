"""Every public spelling of the tensor names, laid out by hand: the same parameters in, the same bits out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, MistralConfig

from tests.conversion.hf_checkpoints import draw_text, make_llama, make_llava, make_mistral, randomise, save
from tests.parity.test_llava_logits import assert_same_logits, llava_rows
from vlm_mu_jax.conversion.convert import ConvertOptions, convert
from vlm_mu_jax.conversion.exporter import ExportOptions, export
from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.model.params import flatten

# Prefixes of transformers 5's modules -> what a file of that kind has; written down from the files, not from names.py.
SPELLINGS = {
    "llava_v4": {  # llava-hf/llava-1.5-7b-hf and everything saved by transformers < 5.6
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    "llava_v5": {  # save_pretrained of transformers >= 5.6
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    "llava_modules": {  # state_dict() of transformers 4.52 ... 5.5
        "model.language_model.": "model.language_model.",
        "lm_head.": "lm_head.",
        "model.vision_tower.": "model.vision_tower.vision_model.",
        "model.multi_modal_projector.": "model.multi_modal_projector.",
    },
    "llava_modules_v5": {  # state_dict() of transformers >= 5.6
        "model.language_model.": "model.language_model.",
        "lm_head.": "lm_head.",
        "model.vision_tower.": "model.vision_tower.",
        "model.multi_modal_projector.": "model.multi_modal_projector.",
    },
}


def respelled(model, spelling):
    tensors = {}
    for key, value in model.state_dict().items():
        (old,) = (prefix for prefix in spelling if key.startswith(prefix))
        tensors[spelling[old] + key.removeprefix(old)] = value.contiguous()
    return tensors


def write(folder, tensors, config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def llava():
    return make_llava(30, text={"attention_bias": True, "num_hidden_layers": 2})


@pytest.mark.parametrize("name", SPELLINGS)
def test_llava_in_every_spelling(llava, name, tmp_path):
    tensors = respelled(llava, SPELLINGS[name])
    source = write(tmp_path / "hf", tensors, llava.config.to_dict())
    converted = convert(source, tmp_path / "ours")
    assert converted.dialect == name
    got = flatten(import_checkpoint(source).params)
    want = flatten(import_checkpoint(save(llava, tmp_path / "saved")).params)
    assert got.keys() == want.keys() and all(np.array_equal(got[path], want[path]) for path in want)
    back = load_file(export(tmp_path / "ours", tmp_path / "back").folder / "model.safetensors")
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_any_spelling_becomes_any_other(llava, tmp_path):
    source = write(tmp_path / "hf", respelled(llava, SPELLINGS["llava_modules"]), llava.config.to_dict())
    convert(source, tmp_path / "ours")
    for name, spelling in SPELLINGS.items():
        want = respelled(llava, spelling)
        got = load_file(
            export(tmp_path / "ours", tmp_path / "back", ExportOptions(dialect=name)).folder / "model.safetensors"
        )
        assert got.keys() == want.keys() and all(torch.equal(got[key], want[key]) for key in want)


def test_a_llava_over_mistral_with_a_sliding_window(tmp_path):
    """As BakLLaVA: the images' tokens fall out of the window too."""
    model = make_llava(31)
    config = model.config
    config.text_config = MistralConfig(**draw_text(31, num_hidden_layers=2), sliding_window=4)
    model = randomise(LlavaForConditionalGeneration(config), 31)
    ours = import_checkpoint(write(tmp_path / "hf", respelled(model, SPELLINGS["llava_v4"]), config.to_dict()))
    assert ours.config.text.sliding_window == 4
    rows, pixels = llava_rows(ours.config, 31)
    assert_same_logits(model, ours, rows, pixels)


TEXT = {
    "llama": (make_llama, {}),
    "vicuna": (make_llama, {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 24}),
    "llama_3": (make_llama, {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 24}),
    "mistral": (make_mistral, {"sliding_window": 4}),
    "tied": (make_llama, {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize(("name", "pickled"), [*((name, False) for name in TEXT), ("vicuna", True)])
def test_text_only_models(name, pickled, tmp_path):
    """`model.layers...` and `lm_head`, with the buffers of old files; Vicuna's own weights are .bin shards."""
    make, fixed = TEXT[name]
    model = make(32 + list(TEXT).index(name), **fixed)
    parameters = {key: value.clone() for key, value in model.state_dict().items()}
    if fixed.get("tie_word_embeddings"):
        del parameters["lm_head.weight"]
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(3) for i in range(2)}
    source = write(tmp_path / "hf", parameters | buffers, model.config.to_dict())
    if pickled:
        (source / "model.safetensors").unlink()
        index = {}
        for i, part in enumerate((list(parameters)[::2], list(parameters)[1::2])):
            file = f"pytorch_model-0000{i + 1}-of-00002.bin"
            torch.save({key: parameters[key] for key in part}, source / file)
            index |= dict.fromkeys(part, file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    converted = convert(source, tmp_path / "ours", ConvertOptions(allow_pickle=pickled))
    assert converted.dialect == "text"
    back = load_file(export(tmp_path / "ours", tmp_path / "back").folder / "model.safetensors")
    assert back.keys() == parameters.keys() and all(torch.equal(back[key], parameters[key]) for key in back)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config == json.loads((source / "config.json").read_text())
