"""The layout of haotian-liu/LLaVA: recognised, described as llava-hf does it, and refused where it computes more."""

import functools
import json

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conversion.hf_checkpoints import edit_json, make_llava, save
from tests.conversion.original_checkpoints import (
    INSIDE,
    config_json,
    make_original,
    save_clip,
    save_original,
    save_tokenizer,
    tower_tensors,
)
from vlm_mu_jax.conversion import names, original
from vlm_mu_jax.conversion.source import open_source
from vlm_mu_jax.conversion.tensor_files import open_tensors
from vlm_mu_jax.data.image_settings import read_settings
from vlm_mu_jax.data.images import load, to_pixels
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.storage.model_folder import ORIGINAL


@pytest.fixture(scope="module")
def model():
    return make_original(0)


@pytest.fixture(scope="module")
def clip(model, tmp_path_factory):
    return save_clip(model, tmp_path_factory.mktemp("clip"))


@pytest.fixture
def checkpoint(model, tmp_path):
    """Without a tower, as liuhaotian/llava-v1.5-7b is."""
    return save_original(model, tmp_path / "llava", tower_inside=False)


def opened(*folders, allow_pickle=False):
    return open_source(folders[0], functools.partial(open_tensors, allow_pickle=allow_pickle), *folders[1:])


def message(*folders):
    with pytest.raises(InputError) as caught:
        with opened(*folders):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_config_becomes_what_llava_hf_has(checkpoint, clip, model):
    with opened(checkpoint, clip) as source:
        config, cfg = source.hf_config, source.config
    assert config["model_type"] == "llava" and config["text_config"]["model_type"] == "llama"
    assert (config["image_token_index"], config["pad_token_id"]) == (83, 84)
    assert config["text_config"]["vocab_size"] == cfg.text.V == 128
    assert cfg.vision.tower.feature_layers == (-2,) and cfg.vision.tower.select == "default"
    assert cfg.vision.tower.D == model.tower.config.hidden_size and cfg.text.D == model.language.config.hidden_size
    assert not any(name.startswith("mm_") for name in config["text_config"])


def test_the_released_7b_gets_the_ids_of_llava_hf(model):
    config = config_json(model, vocab_size=32000)
    vision = original.vision_config(config, None, "x")
    assert (vision["image_size"], vision["patch_size"], vision["num_hidden_layers"]) == (336, 14, 24)
    made = original.hf_config(config, vision, None, "x")
    text = made["text_config"]
    assert (made["image_token_index"], made["pad_token_id"], text["vocab_size"]) == (32000, 32001, 32064)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mm_projector_type": "linear"}, "LLaVA-1.0"),
        ({"mm_projector_type": None}, "LLaVA-1.0"),  # the field was added with LLaVA-1.5
        ({"mm_projector_type": "mlp3x_gelu"}, "mlp3x_gelu"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_resampler_type": "perceiver"}, "mm_resampler_type"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature"),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio"),
        ({"image_aspect_ratio": "anyres"}, "mm_patch_merge_type None"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(1x1),(2x2)"}, "image_grid_pinpoints"),
        ({"model_type": "llava_mpt"}, "llava_mpt"),
        ({"s2": True}, "s2"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_relatives_that_compute_something_else_are_refused(checkpoint, clip, change, word):
    edit_json(checkpoint / "config.json", **change)
    assert word in message(checkpoint, clip)


def test_all_refused_settings_are_named_at_once(checkpoint, clip):
    edit_json(checkpoint / "config.json", mm_projector_type="linear", mm_use_im_start_end=True)
    text = message(checkpoint, clip)
    assert "linear" in text and "mm_use_im_start_end" in text


# The vision tower


@pytest.mark.parametrize("layout", ["clip", "vision", "vision_v5"])
def test_the_tower_may_come_from_any_clip_checkpoint(model, checkpoint, layout, tmp_path):
    clip = save_clip(model, tmp_path / layout, layout)
    with opened(checkpoint, clip) as source:
        assert not source.files.problems and source.dialect.name == "llava_original_split"
        for key, want in tower_tensors(model, "vision_tower/vision_model.").items():
            assert np.array_equal(source.files.read(key), want.numpy()), key
        assert {name.partition("/")[0] for name, _ in source.files.sha256()} == {"model.safetensors", "vision_tower"}


def test_a_tower_inside_wins_over_a_second_folder(model, clip, tmp_path):
    folder = save_original(model, tmp_path / "llava")
    other = save_clip(make_original(0), tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({key: value * 0 for key, value in tensors.items()}, other / "model.safetensors")
    with opened(folder, other) as source:
        assert source.dialect.name == "llava_original"
        key = INSIDE + "pre_layrnorm.weight"
        assert np.array_equal(source.files.read(key), tower_tensors(model)[key].numpy())


def test_a_missing_or_undescribed_tower_is_one_line(model, checkpoint, clip, tmp_path):
    assert "holds no vision tower" in message(checkpoint) and "--vision_tower" in message(checkpoint)
    inside = save_original(model, tmp_path / "inside", mm_vision_tower="somebody/tower")
    assert "somebody/tower is not described" in message(inside)


def test_folders_that_are_no_tower(checkpoint, clip, tmp_path):
    llava = save(make_llava(0), tmp_path / "llava_hf")
    assert "--vision_tower takes a CLIP" in message(checkpoint, llava)
    assert "leave it out" in message(llava, clip)
    tensors = load_file(clip / "model.safetensors") | {"vision_model.head.weight": torch.ones(2)}
    copy = tmp_path / "clip"
    copy.mkdir()
    save_file(tensors | {"extra": torch.ones(1)}, copy / "model.safetensors")
    (copy / "config.json").write_text((clip / "config.json").read_text())
    with opened(checkpoint, copy) as source:
        assert source.files.problems == ["vision_tower/extra is not used by this kind of model"]


# Added tokens


def test_the_vocabulary_grows_only_when_it_must():
    assert original.vocabulary(32000, 32002) == 32064
    assert original.vocabulary(32064, 32002) == 32064
    assert original.vocabulary(100, 102) == 128


@given(
    head=hnp.arrays(np.float32, st.tuples(st.integers(2, 40), st.integers(1, 6)), elements=st.floats(-4, 4, width=32)),
    hidden=st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6),
)
def test_added_tokens_are_never_likeliest_and_hardly_move_the_others(head, hidden):
    V, D = head.shape
    grown = original.grow(head, V + 7).astype(np.float64)
    assert np.array_equal(grown[:V], head)
    logits = grown @ np.array(hidden[:D])
    assert logits[V:].max() <= logits[:V].max() + 1e-4
    before, after = (np.log(np.exp(part).sum()) for part in (logits[:V], logits))
    assert 0 <= after - before <= np.log1p(7 / V) + 1e-4


def test_growing_keeps_bits_and_dtype():
    rows = np.random.default_rng(0).normal(size=(1000, 5)).astype(ml_dtypes.bfloat16)
    grown = original.grow(rows, 1024)
    assert grown.dtype == rows.dtype and np.array_equal(grown[:1000], rows)
    want = rows.astype(np.float64).mean(0).astype(ml_dtypes.bfloat16)
    assert all(np.array_equal(row, want) for row in grown[1000:])


def test_embedding_and_head_are_read_grown(checkpoint, clip, model):
    with opened(checkpoint, clip) as source:
        slots = {slot.key: slot for slot in names.slots(source.specs, source.dialect)}
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = source.files.read(key)
            assert tensor.shape == slots[key].file_shape == (128, model.language.config.hidden_size)
            assert np.array_equal(tensor[:83], model.language.state_dict()[key].numpy())


# Tokenizer and images


@pytest.mark.parametrize("legacy", [True, False, None])
def test_prompts_have_the_ids_of_llava_itself(clip, legacy, tmp_path):
    """llava/mm_utils.py tokenizer_image_token: text before and after the image tokenized apart, the image between."""
    folder = save_original(make_original(1, vocab_size=380), tmp_path / "llava", tower_inside=False)
    spm = save_tokenizer(folder, 380)
    edit_json(folder / "tokenizer_config.json", legacy=legacy)
    before = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
    )
    question = "What is this sign?"
    with opened(folder, clip) as source, source.companions() as companions:
        processor = Processor.from_folder(companions, source.config, "vicuna_v1")
        ids = processor.prompt_ids(question)
        image = source.config.image_token_id
    want = [1, *spm.encode(before), *[image] * source.config.vision.P, *spm.encode(f"\n{question} ASSISTANT:")]
    assert ids == want
    text_only = processor.prompt_ids(question, images=0)
    assert text_only == [1, *spm.encode(f"{before}{question} ASSISTANT:")]


@pytest.mark.parametrize(("aspect", "pads"), [("pad", True), ("square", False), (None, False)])
def test_images_are_padded_or_cropped_as_the_config_says(checkpoint, clip, aspect, pads, tmp_path):
    edit_json(checkpoint / "config.json", image_aspect_ratio=aspect)
    with opened(checkpoint, clip) as source, source.companions() as companions:
        size = source.config.vision.image_size
        settings = read_settings(companions, size)
    assert settings.pad_to_square is pads and settings.crop == settings.size == size
    assert settings.mean == (0.4, 0.5, 0.6) and settings.std == (0.2, 0.3, 0.4)
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "wide.png")
    red = to_pixels(load(tmp_path / "wide.png"), settings)[..., 0]
    assert (red[0, 0] == red[size // 2, size // 2]) is not np.bool_(pads)


def test_the_files_of_the_source_are_kept(checkpoint, clip):
    with opened(checkpoint, clip) as source, source.companions() as companions:
        kept = {path.name: path.read_bytes() for path in (companions / ORIGINAL).iterdir()}
        assert not (companions / "tokenizer.model").exists()
    assert kept.keys() == {"config.json", "tokenizer.model", "tokenizer_config.json"}
    assert all((checkpoint / name).read_bytes() == content for name, content in kept.items())


def test_without_a_tokenizer_the_first_free_ids_are_taken(checkpoint, clip):
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    with opened(checkpoint, clip) as source, source.companions() as companions:
        assert source.config.image_token_id == 83 and source.config.pad_id == 84
        assert not (companions / "tokenizer.json").exists()


def test_a_broken_tokenizer_is_one_line(checkpoint, clip):
    (checkpoint / "tokenizer.model").write_bytes(b"nothing")
    assert "no usable tokenizer" in message(checkpoint, clip)


# A LLaVA that is an adapter over a Vicuna (llava/train/train.py --lora_enable)


def test_a_lora_with_a_llava_config_turns_its_base_into_a_llava(model, clip, tmp_path):
    vicuna = save(model.language, tmp_path / "vicuna")
    save_tokenizer(vicuna, 83)
    lora = write_llava_lora(model, tmp_path / "llava-lora")
    with opened(vicuna, clip, lora, allow_pickle=True) as source:
        assert not source.files.problems and source.dialect.name == "llava_original_split"
        assert source.config.text.V == 128 and source.config.vision is not None
        for key, want in (("model.mm_projector.0.weight", model.projector[0].weight),):
            assert np.array_equal(source.files.read(key), want.detach().numpy())
        key = "model.layers.1.self_attn.q_proj.weight"
        change = source.files.read(key) - model.language.state_dict()[key].numpy()
        np.testing.assert_allclose(change, 2.0 * np.ones_like(change) * 0.03, rtol=1e-4)
        with source.companions() as companions:
            assert json.loads((companions / "original" / "config.json").read_text())["mm_hidden_size"]
            assert (companions / "original" / "tokenizer.model").exists()


def test_the_same_lora_over_a_llava_keeps_the_config_of_its_base(tmp_path):
    """llava-hf's names and LLaVA's own meet: every key of the adapter finds its tensor."""
    hf = make_llava(0, text={"num_hidden_layers": 2})
    model = make_original(0)
    model.language.model = hf.model.language_model
    model.projector = torch.nn.ModuleList([hf.model.multi_modal_projector.linear_1, torch.nn.GELU()])
    model.projector.append(hf.model.multi_modal_projector.linear_2)
    lora = write_llava_lora(model, tmp_path / "llava-lora")
    base = save(hf, tmp_path / "base")
    with opened(base, None, lora, allow_pickle=True) as source:
        assert not source.files.problems and source.hf_config["model_type"] == "llava"
        key = "language_model.model.layers.0.self_attn.q_proj.weight"
        change = source.files.read(key) - hf.model.language_model.layers[0].self_attn.q_proj.weight.detach().numpy()
        np.testing.assert_allclose(change, np.full_like(change, 0.06), rtol=1e-4)


def write_llava_lora(model, folder):
    """adapter_config.json, adapter_model.safetensors, non_lora_trainables.bin and config.json, as LLaVA leaves them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_json(model)))
    adapter = {
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 6,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 3,
        "revision": None,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    tensors = {}
    for i in range(2):
        out, width = model.language.model.layers[i].self_attn.q_proj.weight.shape
        prefix = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = torch.full((3, width), 0.1)
        tensors[f"{prefix}.lora_B.weight"] = torch.full((out, 3), 0.1)
    save_file(tensors, folder / "adapter_model.safetensors")
    projector = {
        f"base_model.model.model.mm_projector.{i}.{name}": value.detach().clone()
        for i in (0, 2)
        for name, value in model.projector[i].named_parameters()
    }
    torch.save(projector, folder / "non_lora_trainables.bin")
    return folder
