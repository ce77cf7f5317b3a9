"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL equal PyTorch transformers: patches, ids, tower, logits, greedy tokens, files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

import vlm_mu_jax
from tests.conversion.hf_checkpoints import randomise
from tests.conversion.test_exporter import tensors, there_and_back
from tests.families import FAMILIES, qwen_processor
from vlm_mu_jax.conversion import importer, names
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import encode_images, forward, param_specs
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.serving.engine import Answering, Engine
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.training.features import with_features
from vlm_mu_jax.training.model_policy import ModelPolicy

BUILDERS = {name: FAMILIES[name].write for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")}
SIZES = ((13, 44), (50, 9), (33, 31))  # height, width
ASKED = ("what is on this sign ?", "share the steps of the dax", "describe the fep , please")
TOLERANCE, NEW = 1e-4, 24
run = jax.jit(forward, static_argnames=("cfg", "logits"))


class Both:
    """A checkpoint as transformers and as we read it, and prompts about no, one and two images."""

    def __init__(self, name, folder):
        BUILDERS[name](folder / "hf")
        vlm_mu_jax.convert(folder / "hf", folder / "ours")
        self.folder, self.ours = folder, vlm_mu_jax.load(folder / "ours")
        self.theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder / "hf").eval()
        self.processor = qwen_processor(folder / "hf")
        rng = np.random.default_rng(0)
        some = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]
        self.shown = [[some[0]], [some[1], some[2]], [], [some[2]]]

    def inputs(self, row):
        content = [{"type": "image", "image": one} for one in self.shown[row]]
        content.append({"type": "text", "text": ASKED[row % len(ASKED)]})
        how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        return self.processor.apply_chat_template([{"role": "user", "content": content}], **how)

    def batch(self, rows):
        pixels = [[self.ours.processor.pixels(one) for one in self.shown[row]] for row in rows]
        ids = [
            self.ours.processor.prompt_ids(ASKED[row % len(ASKED)], shown)
            for row, shown in zip(rows, pixels, strict=True)
        ]
        return self.ours.processor.pad(ids, pixels)


@pytest.fixture(scope="module", params=BUILDERS)
def both(request, tmp_path_factory):
    return Both(request.param, tmp_path_factory.mktemp(request.param))


def test_patches_ids_tower_and_logits_equal_transformers(both):
    """Of a mixed batch, row by row; and pictures of other sizes run in the same compiled program."""
    cfg, batch = both.ours.config, both.batch(range(4))
    logits = np.asarray(run(both.ours.params, batch, cfg).logits_BTV)
    tokens = encode_images(both.ours.params, batch.pixels_BMHWC, cfg, grid_BI2=batch.grid_BI2)
    programs = run._cache_size()
    turned = jax.tree.map(lambda x: x[::-1], batch)
    np.testing.assert_allclose(run(both.ours.params, turned, cfg).logits_BTV[::-1], logits, atol=TOLERANCE)
    assert run._cache_size() == programs
    for i in range(4):
        inputs, length = both.inputs(i), int(batch.lengths_B[i])
        assert batch.tokens_BT[i, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            want = both.theirs(**inputs).logits[0].numpy()
        assert np.abs(want).max() > 0.5
        assert np.abs(logits[i, :length] - want).max() <= TOLERANCE
        if not both.shown[i]:
            continue
        frames = inputs["pixel_values"].numpy().reshape(-1, 3, 2, 4, 4)
        got = batch.pixels_BMHWC[i, : len(frames)].transpose(0, 3, 1, 2)
        assert all(np.array_equal(frames[:, :, t], got) for t in (0, 1))  # the PIL backend's patches, bit by bit
        with torch.no_grad():
            seen = both.theirs.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        want = [torch.cat(seen.pooler_output), *(torch.cat(deep) for deep in getattr(seen, "deepstack_features", ()))]
        want = torch.cat(want, dim=-1).numpy()
        assert np.abs(np.asarray(tokens)[i, : len(want)] - want).max() <= TOLERANCE


def test_greedy_tokens_of_a_mixed_batch_equal_transformers(both):
    """Decoded from a cache; without the image placeholder, which is no text."""
    cfg = dataclasses.replace(both.ours.config, eos_ids=())
    made = np.asarray(generate(both.ours.params, both.batch(range(4)), cfg, max_new_tokens=NEW).tokens_BG)
    for i in range(4):
        inputs = both.inputs(i)
        how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
        want = both.theirs.generate(**inputs, **how, suppress_tokens=[cfg.image_token_id])
        assert made[i].tolist() == want[0, inputs["input_ids"].shape[1] :].tolist(), f"row {i}"


def test_answers_from_a_shared_beginning_are_those_of_whole_prompts(both):
    """What follows an image goes on at the image's rotary position, not at its number of tokens."""
    cfg = dataclasses.replace(both.ours.config, eos_ids=())
    processor = both.ours.processor
    pictures = [processor.pixels(both.shown[0][0]), processor.pixels(both.shown[3][0])]
    rows = [processor.prompt_ids(text, [one]) for one in pictures for text in ASKED[:2]]
    starts = [len(row) - row[::-1].index(cfg.image_token_id) for row in rows]
    prefix = processor.pad([rows[0][: starts[0]], rows[2][: starts[2]]], [[one] for one in pictures])
    rest = processor.pad([row[start:] for row, start in zip(rows, starts, strict=True)])
    got = generate(both.ours.params, rest, cfg, max_new_tokens=6, prefix=prefix)
    whole = processor.pad(rows, [[one] for one in pictures for _ in range(2)])
    want = generate(both.ours.params, whole, cfg, max_new_tokens=6)
    np.testing.assert_array_equal(got.tokens_BG, want.tokens_BG)
    np.testing.assert_allclose(got.logprobs_BG, want.logprobs_BG, atol=TOLERANCE)


@pytest.mark.parametrize("name", BUILDERS)
def test_files_come_back_bit_by_bit_in_every_spelling(name, tmp_path):
    """Sharded, with tied heads, in bfloat16; config.json with the decoder's fields beside the others, too."""
    BUILDERS[name](tmp_path / "first")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "first", tie_word_embeddings=True)
    theirs = randomise(transformers.AutoModelForImageTextToText.from_config(config), 1).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    ours = importer.import_checkpoint(tmp_path / "hf")
    assert ours.config.text.tie_embeddings and len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    assert tensors(there_and_back(tmp_path / "hf", tmp_path / "one")) == tensors(tmp_path / "hf")
    specs, stored = param_specs(ours.config), tensors(tmp_path / "hf")
    for dialect in names.fitting(specs):
        source = tmp_path / dialect.name
        source.mkdir()
        again = {k: v for file in (tmp_path / "hf").glob("*.safetensors") for k, v in load_file(file).items()}
        old = {slot.key: new.key for slot, new in _pairs(specs, ours.dialect, dialect)}
        save_file({old[key]: value for key, value in again.items()}, source / "model.safetensors", {"format": "pt"})
        hf = json.loads((tmp_path / "hf" / "config.json").read_text())
        if name != "qwen3_vl":  # as transformers < 4.52 writes it
            rope = hf["text_config"].pop("rope_parameters")
            hf |= {k: v for k, v in hf.pop("text_config").items() if k not in ("model_type", "layer_types", "dtype")}
            hf |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
        (source / "config.json").write_text(json.dumps(hf))
        assert from_hf(hf) == ours.config
        back = there_and_back(source, tmp_path / f"{dialect.name}_there")
        assert tensors(back) == tensors(source) and len(tensors(back)) == len(stored)


def _pairs(specs, old, new):
    old = old if not isinstance(old, str) else names.DIALECTS[old]
    return zip(names.slots(specs, old), names.slots(specs, new), strict=True)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("text_config", {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1]}}, "mrope_section"),
        ("text_config", {"rope_parameters": {"rope_type": "longrope", "factor": 2}}, "longrope"),
        ("vision_config", {"rope_parameters": {"rope_type": "linear"}}, "vision rope_type 'linear'"),
        ("vision_config", {"in_channels": 4}, "in_channels"),
        ("vision_config", {"hidden_act": "tanh"}, "hidden_act 'tanh'"),
        ("vision_config", {"out_hidden_size": 30}, "30 values"),
        ("vision_config", {"deepstack_visual_indexes": [0, 9]}, "deepstack_visual_indexes"),
        ("vision_config", {"num_position_embeddings": 24}, "num_position_embeddings 24"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(part, fields, message, tmp_path):
    BUILDERS["qwen3_vl"](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= fields
    with pytest.raises(InputError, match=message):
        from_hf(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 5}, "patch_size is 5, config.json says 4"),
        ({"merge_size": 3}, "merge_size"),
        ({"temporal_patch_size": 1}, "temporal_patch_size"),
        ({"do_resize": False}, "do_resize"),
        ({"size": {"height": 8, "width": 8}}, "height"),
        ({"size": {"shortest_edge": 8}}, "None pixels"),
        ({"min_pixels": 900, "max_pixels": 90}, "900 and 90"),
    ],
)
def test_an_image_processor_that_does_not_fit_is_refused_by_name(fields, message, tmp_path):
    BUILDERS["qwen2_vl"](tmp_path / "hf")
    file = tmp_path / "hf" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(InputError, match=message):
        vlm_mu_jax.convert(tmp_path / "hf", tmp_path / "ours")


def test_training_reads_what_the_forward_pass_gives(both):
    """The losses of a stream's rows, of pixels and of the tower's output kept beforehand."""
    model = both.ours
    rows = []
    for i, shown in enumerate(both.shown):
        example = model.processor.example(ASKED[i % len(ASKED)], "take it", shown)
        rows.append(TrainRow(f"r{i}", example.ids, example.mask, tuple(model.processor.pixels(one) for one in shown)))
    stream = Stream(rows, len(rows), 0, image_token_id=model.config.image_token_id)
    kept = with_features(model.params, {"train": stream}, model.config, single_device_mesh(), cache=None)["train"]
    nll = jax.jit(lambda params, batch: ModelPolicy(params, None, None, model.config, {}).nll(batch)[0])
    batches = [one.take(range(4)) for one in (stream, kept)]
    assert batches[1].batch.pixels_BMHWC is None and batches[1].batch.vision_BMPE is not None
    got, cached = (nll(model.params, batch) for batch in batches)
    batch, mask = batches[0].batch, batches[0].mask_BT
    logprobs = jax.nn.log_softmax(run(model.params, batch, model.config).logits_BTV)
    next_BT = np.take_along_axis(np.asarray(logprobs), np.roll(batch.tokens_BT, -1, 1)[..., None], axis=2)[..., 0]
    want = -np.where(np.roll(mask, -1, 1), next_BT, 0).sum(1)
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
    np.testing.assert_allclose(cached, want, atol=TOLERANCE)


def test_served_answers_are_those_of_generate(both):
    """Rows that join a running batch go on at their own rotary positions."""
    model = dataclasses.replace(both.ours, config=dataclasses.replace(both.ours.config, eos_ids=()))
    taken = [[] for _ in range(4)]
    engine = Engine("tiny", model, rows=2)
    for i, shown in enumerate(both.shown):
        text, pixels = ASKED[i % len(ASKED)], tuple(model.processor.pixels(one) for one in shown)
        ids = tuple(model.processor.prompt_ids(text, pixels))
        asked = ServedPrompt(ids, pixels, tuple(f"{i}{j}" for j in range(len(pixels))), ids)
        engine.submit([Answering(asked, 6, taken[i].append)])
    while engine.live or engine.waiting:
        engine.turn()
    want = np.asarray(generate(model.params, both.batch(range(4)), model.config, max_new_tokens=6).tokens_BG)
    assert [[token.id for token in one] for one in taken] == want.tolist()
