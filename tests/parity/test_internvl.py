"""InternVL equals PyTorch transformers: pixels, prompt ids, tower, logits and greedy tokens; the checkpoint both ways.

transformers' image processor is that of the PIL backend. Its InternVLProcessor asks for a video processor, which needs
torchvision; here it stands without one.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

import vlm_mu_jax
from tests.conversion.hf_checkpoints import edit_json
from tests.conversion.test_exporter import tensors, there_and_back
from tests.families import internvl_folder, internvl_processor
from vlm_mu_jax.conversion import importer, names
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import encode_tower, forward, param_specs

TOLERANCE = 1e-4
QWEN3_6B = {  # the parts of the large InternViT, and Qwen3 with tied embeddings as transformers 5 writes them
    "text_class": transformers.Qwen3Config,
    "vision": {"attention_bias": False, "use_qk_norm": True, "norm_type": "rms_norm", "hidden_size": 24},
}
CASES = {"qwen2": {"tie_word_embeddings": False}, "qwen3_6b": QWEN3_6B}
SHAPES = ((44, 20), (9, 50), (16, 17))  # width, height
QUESTIONS = ["share the steps of the dax ?", "what can the wug on this sign ?", "describe the fep"]
logits_of = jax.jit(lambda params, batch, cfg: forward(params, batch, cfg).logits_BTV, static_argnames="cfg")


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """(transformers' model, its processor, ours, image files, the folder of the checkpoint)."""
    top = tmp_path_factory.mktemp(request.param)
    internvl_folder(top / "hf", **CASES[request.param])
    rng, files = np.random.default_rng(0), []
    for i, (width, height) in enumerate(SHAPES):
        files.append(top / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(files[-1])
    vlm_mu_jax.convert(top / "hf", top / "ours")
    theirs = transformers.InternVLForConditionalGeneration.from_pretrained(top / "hf").eval()
    return theirs, internvl_processor(top / "hf"), vlm_mu_jax.load(top / "ours"), files, top / "hf"


def prompts(files: list[Path]) -> list[tuple[str, list[Path]]]:
    """A picture of every shape, two pictures, and none."""
    return [
        *((q, [file]) for q, file in zip(QUESTIONS, files, strict=True)),
        (QUESTIONS[0], files[:2]),
        (QUESTIONS[1], []),
    ]


def their_inputs(processor, question, files):
    content = [*({"type": "image", "path": str(file)} for file in files), {"type": "text", "text": question}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return processor.apply_chat_template([{"role": "user", "content": content}], **how)


def our_batch(model, asked):
    rows = [model.processor.prompt_ids(question, files) for question, files in asked]
    pixels = [[model.processor.pixels(file) for file in model.processor.together(files)] for _, files in asked]
    return rows, pixels, model.processor.pad(rows, pixels, multiple=32)


def assert_same_logits(theirs, processor, ours, files):
    """Of one mixed batch, row by row."""
    rows, _, batch = our_batch(ours, prompts(files))
    got = np.asarray(logits_of(ours.params, batch, ours.config))
    for i, (question, shown) in enumerate(prompts(files)):
        inputs = their_inputs(processor, question, shown)
        with torch.no_grad():
            want = theirs(**inputs).logits[0].numpy()
        assert np.abs(want).max() > 0.5, "logits too small for the tolerance to mean anything"
        assert np.abs(got[i, : len(rows[i])] - want).max() <= TOLERANCE, (question, shown)


def assert_same_greedy_tokens(theirs, processor, ours, files, count=24):
    """Of one mixed batch, decoded from a cache: those of transformers, and those of our whole forward pass.

    transformers is told not to write the image placeholder; ours never does.
    """
    cfg = dataclasses.replace(ours.config, eos_ids=())
    rows, pixels, batch = our_batch(ours, prompts(files))
    made = np.asarray(generate(ours.params, batch, cfg, max_new_tokens=count).tokens_BG)
    barred = {"suppress_tokens": [cfg.image_token_id], "eos_token_id": None}
    for i, (question, shown) in enumerate(prompts(files)):
        inputs = their_inputs(processor, question, shown)
        want = theirs.generate(**inputs, max_new_tokens=count, do_sample=False, **barred)[0, len(rows[i]) :]
        assert made[i].tolist() == want.tolist(), (question, shown)
    whole = ours.processor.pad([[*row, *answer] for row, answer in zip(rows, made.tolist(), strict=True)], pixels, 32)
    logits = np.array(logits_of(ours.params, whole, cfg))
    logits[..., cfg.image_token_id] = -np.inf
    for i, row in enumerate(rows):
        assert logits[i, len(row) - 1 : len(row) + count - 1].argmax(-1).tolist() == made[i].tolist()


def test_ids_and_pixels_equal_those_of_the_processor(both):
    _, processor, ours, files, _ = both
    for question, shown in prompts(files):
        inputs = their_inputs(processor, question, shown)
        assert ours.processor.prompt_ids(question, shown) == inputs["input_ids"][0].tolist()
        if not shown:
            continue
        want = inputs["pixel_values"].permute(0, 2, 3, 1).numpy()
        got = np.concatenate([ours.processor.pixels(file).pixels_MHWC for file in shown])
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_tower_and_logits_of_a_mixed_batch_equal_transformers_row_by_row(both):
    theirs, processor, ours, files, _ = both
    assert_same_logits(theirs, processor, ours, files)
    inputs = their_inputs(processor, *prompts(files)[0])
    with torch.no_grad():
        want = theirs.model.vision_tower(inputs["pixel_values"]).last_hidden_state[:, 1:].numpy()
    pixels = np.moveaxis(inputs["pixel_values"].numpy(), 1, -1)
    states = np.asarray(encode_tower(ours.params, pixels[None], ours.config))[0]
    assert np.abs(states - want).max() <= TOLERANCE


def test_24_greedy_tokens_of_a_mixed_batch_equal_transformers_and_the_whole_forward(both):
    assert_same_greedy_tokens(*both[:4])


@pytest.mark.parametrize("both", ["qwen2"], indirect=True)
@pytest.mark.parametrize("dialect", ["internvl", "internvl_modules"])
def test_there_and_back_is_bit_exact(both, dialect, tmp_path):
    """Sharded too, and transformers loads it without complaint."""
    theirs, _, ours, _, folder = both
    source = shutil.copytree(folder, tmp_path / "hf")
    specs = param_specs(ours.config)
    slots = [names.slots(specs, names.DIALECTS[name]) for name in ("internvl", dialect)]
    spelled = {old.key: new.key for old, new in zip(*slots, strict=True)}
    stored = {spelled[key]: value for key, value in load_file(source / "model.safetensors").items()}
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    back = there_and_back(source, tmp_path, shard_bytes=20_000)
    assert tensors(back) == tensors(source) and len(list(back.glob("*.safetensors"))) > 1
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    _, report = type(theirs).from_pretrained(back, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("both", ["qwen2"], indirect=True)
def test_a_head_of_its_own_counts_where_the_outer_field_ties(both, tmp_path):
    """As InternVL 3.5 is published: true outside, false in text_config, and an output matrix among the tensors."""
    theirs, _, ours, _, _ = both
    theirs.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", tie_word_embeddings=True)
    found = importer.import_checkpoint(tmp_path)
    np.testing.assert_array_equal(found.params["decoder"]["head_DV"], ours.params["decoder"]["head_DV"])
    assert found.hf_config["tie_word_embeddings"] is False


def test_what_cannot_be_followed_is_refused_by_name():
    config = {"model_type": "internvl", "text_config": {"model_type": "qwen2"}, "vision_config": {}}
    assert from_hf(config).vision.P == 256 and from_hf(config).vision.plan.tiles == 13
    for field, value, message in (
        ("model_type", "internvl_chat", "name ends in -hf"),
        ("vision_feature_layer", [-1, -2], "vision_feature_layer"),
        ("vision_feature_select_strategy", "full", "vision_feature_select_strategy"),
        ("downsample_ratio", 0.3, "downsample_ratio"),
        ("vision_config", {"norm_type": "batch_norm"}, "norm_type"),
        ("vision_config", {"image_size": [448, 224]}, "image_size"),
    ):
        with pytest.raises(InputError, match=message):
            from_hf(config | {field: value})
