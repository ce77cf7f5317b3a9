"""`config.json` is understood as transformers understands it, also where it relies on defaults."""

import copy
import json

import pytest
import transformers

from tests.conversion.hf_checkpoints import LLAMA3_ROPE, make_llava, save
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf

# As released: llava-hf/llava-1.5-7b-hf, written by transformers 4.36, which stores only what differs from the defaults.
LLAVA_15 = {
    "model_type": "llava",
    "image_token_index": 32000,
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
MISTRAL_TEXT = {"model_type": "mistral", "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32064}
# As released: llava-hf/llava-v1.6-mistral-7b-hf (text fields that are Mistral's defaults are left out there too)
LLAVA_16_MISTRAL = LLAVA_15 | {
    "model_type": "llava_next",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "text_config": MISTRAL_TEXT
    | {"max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1e6, "sliding_window": None},
    "use_image_newline_parameter": True,
}
CONFIGS = {
    "llava_next_mistral": LLAVA_16_MISTRAL,
    "llava_next_vicuna": LLAVA_15 | {"model_type": "llava_next", "use_image_newline_parameter": True},
    "llava_15": LLAVA_15,
    "llava_mistral": LLAVA_15 | {"text_config": MISTRAL_TEXT},
    "llava_bare": {"model_type": "llava", "text_config": {}, "vision_config": {}},
    "llama_bare": {"model_type": "llama"},
    "mistral_bare": {"model_type": "mistral"},
    "mistral_no_window": {"model_type": "mistral", "sliding_window": None, "rope_theta": 1e6},
    "rope_linear_v4": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5},
    "rope_llama3_v5": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
}
TEXT_FIELDS = {
    "V": "vocab_size",
    "D": "hidden_size",
    "L": "num_hidden_layers",
    "N": "num_attention_heads",
    "K": "num_key_value_heads",
    "F": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
VISION_FIELDS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "D": "hidden_size",
    "L": "num_hidden_layers",
    "N": "num_attention_heads",
    "F": "intermediate_size",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_fields_are_those_of_transformers(name):
    ours = from_hf(CONFIGS[name])
    theirs = transformers.AutoConfig.for_model(**copy.deepcopy(CONFIGS[name]))
    text = theirs.get_text_config()
    assert {a: getattr(ours.text, a) for a in TEXT_FIELDS} == {a: getattr(text, b) for a, b in TEXT_FIELDS.items()}
    assert ours.text.sliding_window == getattr(text, "sliding_window", None)
    assert ours.text.rope_theta == text.rope_parameters["rope_theta"]
    kind = text.rope_parameters["rope_type"]
    assert (ours.text.rope_scaling.kind if ours.text.rope_scaling else "default") == kind
    if ours.vision is not None:
        vision = theirs.vision_config
        got = {a: getattr(ours.vision.tower, a) for a in VISION_FIELDS}
        assert got == {a: getattr(vision, b) for a, b in VISION_FIELDS.items()}
        pinpoints = getattr(ours.vision.plan, "pinpoints", ())
        assert [list(one) for one in pinpoints] == getattr(theirs, "image_grid_pinpoints", [])


def test_released_llava_has_576_tokens_per_image():
    assert from_hf(LLAVA_15).vision.P == 576


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_either_level_ties_the_head_as_in_transformers(top, text, tmp_path):
    model = make_llava(0, text={"tie_word_embeddings": text}, tie_word_embeddings=top)
    params = importer.import_checkpoint(save(model, tmp_path)).params
    assert ("head_DV" not in params["decoder"]) == (model.lm_head.weight is model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"text_config": {"model_type": "mpt"}}, "mpt"),
        ({"vision_config": {"model_type": "dinov2"}}, "dinov2"),
        ({"text_config": {"rope_scaling": {"type": "longrope", "factor": 2.0}}}, "longrope"),
        ({"text_config": {"hidden_act": "gelu_fast"}}, "hidden_act"),
        ({"torch_dtype": "float64"}, "float64"),
        ({"text_config": None}, "wrong kind"),
        ({"text_config": {"num_hidden_layers": "3"}}, "text L is '3'"),
        ({"text_config": {"num_attention_heads": 6, "num_key_value_heads": 4}}, "6 attention heads"),
        ({"vision_config": {"hidden_size": 10, "num_attention_heads": 3}}, "vision width 10"),
        ({"vision_config": {"patch_size": 0}}, "patch_size is 0"),
        ({"vision_feature_layer": -30}, "vision_feature_layer"),
        ({"vision_feature_select_strategy": "cls"}, "'cls'"),
    ],
)
def test_unsupported_configs_are_one_line(change, word):
    with pytest.raises(InputError, match=word) as caught:
        from_hf(json.loads(json.dumps(LLAVA_15 | change)))
    assert "\n" not in str(caught.value)
