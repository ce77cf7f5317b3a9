"""The layout of haotian-liu/LLaVA: logits equal its own forward pass, and the way back gives the same checkpoint."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tests.conversion.hf_checkpoints import make_llava_next, save
from tests.conversion.original_checkpoints import (
    make_original,
    save_clip,
    save_original,
    save_original_next,
    tower_tensors,
)
from tests.parity.test_llava_logits import our_logits
from vlm_mu_jax import load
from vlm_mu_jax.conversion.convert import ConvertOptions, convert
from vlm_mu_jax.conversion.exporter import ExportOptions, export
from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.storage.model_folder import read_settings, write_model_folder

CASES = {
    "tower_apart": ({}, False, {}),
    "mistral_window": ({"mistral": True, "sliding_window": 5}, True, {}),
    "last_layer_with_class": ({}, False, {"select_layer": -1, "keep_class": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_llavas_own(name, tmp_path):
    fixed, inside, selection = CASES[name]
    seed = list(CASES).index(name)
    theirs = make_original(seed, **fixed)
    theirs.__dict__.update(selection)
    source = save_original(theirs, tmp_path / "llava", inside)
    if inside:  # config.json names the tower, a folder that only describes it says what it looks like
        clip = save_clip(theirs, tmp_path / "clip", "vision")
        (clip / "model.safetensors").unlink()
    else:
        clip = save_clip(theirs, tmp_path / "clip")
    ours = import_checkpoint(source, ConvertOptions(vision_tower=clip))
    V, image = theirs.language.config.vocab_size, [ours.config.image_token_id] * ours.config.vision.P
    rng = np.random.default_rng(seed)
    rows = [[rng.integers(3, V, n).tolist() for n in counts] for counts in ((5, 4), (1, 3, 2), (7,))]
    size = ours.config.vision.image_size
    pixels = [[rng.normal(size=(size, size, 3)).astype(np.float32) for _ in row[1:]] for row in rows]
    joined = [sum(([*image, *piece] for piece in row[1:]), list(row[0])) for row in rows]
    got = our_logits(ours, joined, pixels)
    assert got.shape[-1] == 128 and V == 83
    for i, (row, images) in enumerate(zip(rows, pixels, strict=True)):
        stack = torch.tensor(np.array(images).reshape(-1, size, size, 3)).permute(0, 3, 1, 2)
        want = theirs.logits(row, stack).numpy()
        assert np.abs(want).max() > 0.5
        np.testing.assert_allclose(got[i, : len(joined[i]), :V], want, atol=1e-4)
        assert (got[i, : len(joined[i])].argmax(-1) < V).all(), "an added token must never be the likeliest"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def tensors_of(folder):
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items() if "inv_freq" not in k}


def same(got, want):
    return got.keys() == want.keys() and all(
        got[key].dtype == want[key].dtype and torch.equal(got[key], want[key]) for key in want
    )


@pytest.mark.parametrize(("inside", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_there_and_back_gives_the_same_checkpoint(inside, dtype, tmp_path):
    theirs = make_original(4)
    for part in (theirs.language, theirs.projector, theirs.tower):
        part.to(dtype)
    kind = str(dtype).removeprefix("torch.")
    source = save_original(theirs, tmp_path / "llava", inside, torch_dtype=kind)
    clip = save_clip(theirs, tmp_path / "clip")
    convert(source, tmp_path / "ours", ConvertOptions(vision_tower=clip))
    first = load(tmp_path / "ours")
    settings, config = read_settings(first.folder), read_json(first.folder / "config.json")
    write_model_folder(  # as a training run does
        tmp_path / "trained", first.params, config, first.folder, settings["template"], settings["dialect"], {}
    )
    back = export(tmp_path / "trained", tmp_path / "back").folder
    assert same(tensors_of(back), tensors_of(source))
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    before, after = files_of(source), files_of(back)
    assert all(after[name] == before[name] for name in ("tokenizer.model", "tokenizer_config.json"))
    if inside:
        assert not (back / "vision_tower").exists()
        return
    assert same(load_file(back / "vision_tower" / "model.safetensors"), tower_tensors(theirs, "vision_model."))
    convert(back, tmp_path / "again", ConvertOptions(vision_tower=back / "vision_tower"))  # and once more
    again = load(tmp_path / "again")
    assert first.config == again.config
    assert first.processor.settings == again.processor.settings


def test_a_tower_apart_may_be_put_inside(tmp_path):
    theirs = make_original(5)
    source = save_original(theirs, tmp_path / "llava", tower_inside=False)
    convert(source, tmp_path / "ours", ConvertOptions(vision_tower=save_clip(theirs, tmp_path / "clip")))
    back = export(tmp_path / "ours", tmp_path / "back", ExportOptions(dialect="llava_original")).folder
    assert same(tensors_of(back), tensors_of(source) | tower_tensors(theirs))
    assert json.loads((back / "config.json").read_text())["unfreeze_mm_vision_tower"] is True


def test_exported_as_llava_hf_it_runs_in_transformers(tmp_path):
    theirs = make_original(6, vocab_size=380)
    source = save_original(theirs, tmp_path / "llava", tower_inside=False)
    convert(source, tmp_path / "ours", ConvertOptions(vision_tower=save_clip(theirs, tmp_path / "clip")))
    back = export(tmp_path / "ours", tmp_path / "back", ExportOptions(dialect="llava_v4")).folder
    assert not (back / "original").exists()
    model, info = LlavaForConditionalGeneration.from_pretrained(back, output_loading_info=True)
    assert not any(info.values()), info
    processor, ours = AutoProcessor.from_pretrained(back), load(tmp_path / "ours")
    assert ours.processor.template == "vicuna_v1"
    prompt = ours.processor.prompt_text("what is this?").replace("<image>" * ours.config.vision.P, "<image>")
    picture = np.random.default_rng(0).integers(0, 255, (30, 17, 3), dtype=np.uint8)
    from PIL import Image

    inputs = processor(images=Image.fromarray(picture), text=prompt, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == ours.processor.prompt_ids("what is this?")
    pixels = ours.processor.pixels(Image.fromarray(picture))
    np.testing.assert_allclose(inputs["pixel_values"][0].permute(1, 2, 0).numpy(), pixels, atol=0.05)
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        want = model(torch.tensor([ids]), pixel_values=torch.tensor(pixels).permute(2, 0, 1)[None]).logits[0].numpy()
    got = our_logits(ours, [ids], [[pixels]])
    np.testing.assert_allclose(got[0, : len(ids)], want, atol=1e-4)


def test_the_released_weights_are_pickles(tmp_path):
    """liuhaotian/llava-v1.5-7b and openai/clip-vit-large-patch14-336 have .bin files only."""
    theirs = make_original(7)
    source = save_original(theirs, tmp_path / "llava", tower_inside=False)
    clip = save_clip(theirs, tmp_path / "clip")
    want = import_checkpoint(source, ConvertOptions(vision_tower=clip))
    for folder in (source, clip):
        tensors = load_file(folder / "model.safetensors")
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    got = import_checkpoint(source, ConvertOptions(vision_tower=clip, allow_pickle=True))
    for path, leaf in flatten(want.params).items():
        np.testing.assert_array_equal(flatten(got.params)[path], leaf)


@pytest.mark.parametrize("mistral", [False, True])
def test_llava_16_is_the_model_that_llava_hf_has(mistral, tmp_path):
    """Equal parameters and config make an equal model; tests/parity/test_llava_next.py says what it computes."""
    theirs = make_llava_next(8, text={"vocab_size": 83}, mistral=mistral)
    hf = import_checkpoint(save(theirs, tmp_path / "hf"))
    source = save_original_next(theirs, tmp_path / "llava")
    clip = tmp_path / "clip"
    clip.mkdir()
    theirs.config.vision_config.save_pretrained(clip)
    convert(source, tmp_path / "ours", ConvertOptions(vision_tower=clip))
    ours, V = load(tmp_path / "ours"), hf.config.text.V
    same_ids = {"image_token_id": hf.config.image_token_id, "pad_id": hf.config.pad_id, "bos_id": hf.config.bos_id}
    assert dataclasses.replace(ours.config, **same_ids).with_text(V=V) == hf.config
    assert ours.config.image_token_id == V and ours.config.vision.plan.pinpoints
    assert ours.processor.template == ("mistral_instruct" if mistral else "vicuna_v1")
    for path, want in flatten(hf.params).items():
        got = np.asarray(flatten(ours.params)[path])
        rows = {"decoder/embed_VD": np.s_[:V], "decoder/head_DV": np.s_[:, :V]}.get(path, np.s_[:])
        np.testing.assert_array_equal(got[rows], want, err_msg=path)
    back = export(tmp_path / "ours", tmp_path / "back").folder
    assert same(tensors_of(back), tensors_of(source))
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())


def test_resolutions_are_width_and_height_there(tmp_path):
    theirs = make_llava_next(9, text={"vocab_size": 83})
    side = theirs.config.vision_config.image_size
    theirs.config.image_grid_pinpoints = [[side, 3 * side]]  # one row of three tiles
    source = save_original_next(theirs, tmp_path / "llava")
    assert json.loads((source / "config.json").read_text())["image_grid_pinpoints"] == [[3 * side, side]]
    theirs.config.vision_config.save_pretrained(tmp_path)
    assert import_checkpoint(source, ConvertOptions(vision_tower=tmp_path)).config.vision.plan.pinpoints == (
        (side, 3 * side),
    )
