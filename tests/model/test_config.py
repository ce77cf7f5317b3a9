"""config.json in the spellings of transformers 4 and 5; impossible ones are one-line errors."""

import dataclasses

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import RopeScaling
from vlm_mu_jax.model.families import from_hf

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
}
CLIP = {
    "model_type": "clip_vision_model",
    "image_size": 28,
    "patch_size": 7,
    "hidden_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 30,
}
LLAVA = {"model_type": "llava", "text_config": LLAMA, "vision_config": CLIP, "image_token_index": 99}
NEXT = {"model_type": "llava_next", "image_grid_pinpoints": [[28, 56], [84, 28]]}


def test_sizes_are_read_into_their_letters():
    text = from_hf(LLAMA).text
    assert (text.V, text.D, text.L, text.N, text.K, text.H, text.F) == (100, 24, 2, 6, 3, 4, 40)
    cfg = from_hf(LLAVA)
    vision = cfg.vision
    assert dataclasses.astuple(vision.tower)[:6] == (28, 7, 20, 3, 2, 30)
    assert cfg.image_token_id == 99
    assert cfg.text == dataclasses.replace(text)


@pytest.mark.parametrize(
    ("four", "five"),
    [
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        ),
        ({"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
    ],
)
def test_transformers_4_and_5_spellings_mean_the_same(four, five):
    assert from_hf(LLAMA | four) == from_hf(LLAMA | five) != from_hf(LLAMA)


def test_image_token_in_both_spellings():
    newer = {k: v for k, v in LLAVA.items() if k != "image_token_index"} | {"image_token_id": 99}
    assert from_hf(newer) == from_hf(LLAVA)


def test_one_image_has_a_token_per_patch_and_one_more_with_the_class_token():
    assert from_hf(LLAVA).vision.P == 16
    assert from_hf(LLAVA | {"vision_feature_select_strategy": "full"}).vision.P == 17


def test_llava_next_has_tiles_and_the_rest_of_llava():
    cfg = from_hf(LLAVA | NEXT | {"use_image_newline_parameter": True})
    assert cfg.vision.plan.pinpoints == ((28, 56), (84, 28)) and cfg.vision.tiles == 1 + 3 and cfg.vision.P == 16
    assert cfg.vision.tower == from_hf(LLAVA).vision.tower and cfg.vision.connector.newline
    assert from_hf(LLAVA).vision.tiles == 1
    assert hash(cfg) == hash(from_hf(LLAVA | NEXT))


def test_ids_of_the_text_config_hold_unless_the_top_level_says_otherwise():
    text = LLAMA | {"bos_token_id": 5, "eos_token_id": [6, 7], "pad_token_id": 8}
    cfg = from_hf(LLAVA | {"text_config": text})
    assert (cfg.bos_id, cfg.eos_ids, cfg.pad_id) == (5, (6, 7), 8)
    assert from_hf(LLAVA | {"text_config": text, "pad_token_id": 9, "eos_token_id": None}).pad_id == 9


def test_rope_scalings():
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = from_hf(LLAMA | {"rope_scaling": llama3 | {"original_max_position_embeddings": 32}}).text.rope_scaling
    assert scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
    dynamic = from_hf(LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2}}).text.rope_scaling
    assert dynamic.original_max_positions == 64  # the config's own maximum


def test_a_config_is_a_static_argument_and_replacing_a_field_keeps_the_rest():
    cfg = from_hf(LLAVA)
    assert hash(cfg) == hash(from_hf(LLAVA))
    changed = cfg.with_text(remat="full")
    assert changed.text.remat == "full" and changed.with_text(remat="none") == cfg


BAD = {
    "no type": {"model_type": None},
    "other family": {"model_type": "gpt2"},
    "other vision tower": {"vision_config": CLIP | {"model_type": "dinov2"}},
    "other activation": {"text_config": LLAMA | {"hidden_act": "gelu_fast"}},
    "other rope": {"text_config": LLAMA | {"rope_scaling": {"type": "longrope", "factor": 2.0}}},
    "rope without factor": {"text_config": LLAMA | {"rope_scaling": {"type": "linear"}}},
    "negative size": {"text_config": LLAMA | {"hidden_size": -24}},
    "text for a number": {"text_config": LLAMA | {"vocab_size": "many"}},
    "heads do not divide": {"text_config": LLAMA | {"num_key_value_heads": 4}},
    "vision heads do not divide": {"vision_config": CLIP | {"num_attention_heads": 3}},
    "zero heads": {"text_config": LLAMA | {"num_attention_heads": 0}},
    "feature layer out of range": {"vision_feature_layer": 4},
    "feature layer is text": {"vision_feature_layer": "last"},
    "unknown selection": {"vision_feature_select_strategy": "cls"},
    "text config is a list": {"text_config": []},
    "no vision config": {"vision_config": None},
    "unknown dtype": {"torch_dtype": "int8"},
    "tiles that are no multiple of the tower": {"model_type": "llava_next", "image_grid_pinpoints": [[28, 60]]},
    "tiles of one side": {"model_type": "llava_next", "image_grid_pinpoints": [[28]]},
    "no tiles": {"model_type": "llava_next", "image_grid_pinpoints": []},
    "tiles that are numbers": {"model_type": "llava_next", "image_grid_pinpoints": [28, 56]},
    "class token in every tile": NEXT | {"vision_feature_select_strategy": "full"},
    "no newline": NEXT | {"use_image_newline_parameter": False},
    "more layers than can be": {"text_config": LLAMA | {"num_hidden_layers": 1_000_000_000}},
    "an epsilon that is no number": {"text_config": LLAMA | {"rms_norm_eps": float("nan")}},
    "an epsilon of the tower that is no number": {"vision_config": CLIP | {"layer_norm_eps": float("nan")}},
    "a negative rope base": {"text_config": LLAMA | {"rope_theta": -1}},
    "an image token beyond the vocabulary": {"image_token_index": 999_999},
    "an image token that is no id": {"image_token_index": "<image>"},
    "an activation of the connector that we do not have": {"projector_hidden_act": "gelu_fast"},
    "an activation of the tower that we do not have": {"vision_config": CLIP | {"hidden_act": "gelu_fast"}},
    "heads of odd size": {"text_config": LLAMA | {"head_dim": 7}},
    "an end token beyond the vocabulary": {"text_config": LLAMA | {"eos_token_id": 999_999}},
    "a first token that is text": {"text_config": LLAMA | {"bos_token_id": "<s>"}},
    "a padding token that is text": {"text_config": LLAMA | {"pad_token_id": "<pad>"}},
}


@pytest.mark.parametrize("name", BAD)
def test_an_impossible_config_is_one_line_that_names_the_file(name):
    with pytest.raises(InputError) as error:
        from_hf(LLAVA | BAD[name], "there/config.json")
    assert "there/config.json" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_part_is_named():
    with pytest.raises(InputError, match="vision_config"):
        from_hf({k: v for k, v in LLAVA.items() if k != "vision_config"})
