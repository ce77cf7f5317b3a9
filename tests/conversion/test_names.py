"""The name table: complete, one-to-one, and every layout reversible."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import clip_vision
from vlm_mu_jax.conversion import names
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import tensors
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs

TEXT = TextConfig(V=11, D=12, L=2, N=4, K=2, H=3, F=7, attention_bias=True, mlp_bias=True)
LLAVA = param_specs(ModelConfig(text=TEXT, vision=clip_vision(image_size=8, patch_size=4, D=6, L=3, N=2, F=5)))
LLAMA = param_specs(ModelConfig(text=TEXT))
SANDWICH = param_specs(ModelConfig(text=dataclasses.replace(TEXT, qk_norm=True, post_norms=True)))
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 7}
TOWER = {  # fields of all towers; each family reads its own
    **SMALL,
    "image_size": 8,
    "patch_size": 2,
    "attention_bias": True,
    "use_qk_norm": True,
    "use_mask_token": True,
    "depth": 2,
    "num_heads": 2,
    "embed_dim": 16,
    "out_hidden_size": 16,
    "window_size": 8,
    "fullatt_block_indexes": [1],
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0],
}


def specs_of_family(kind, text):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    text = {**SMALL, "model_type": text, "vocab_size": 11, "num_key_value_heads": 1, "head_dim": 8}
    return param_specs(
        from_hf(
            {
                "model_type": kind,
                "text_config": {**text, "rope_parameters": rope},
                "vision_config": TOWER,
                "image_token_id": 10,
                "scale_factor": 2,
                "mm_tokens_per_image": 4,
                "tie_word_embeddings": False,
            }
        )
    )


FAMILIES = {
    "internvl": "qwen2",
    "idefics3": "llama",
    "gemma3": "gemma3_text",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}
ALL = [LLAVA, LLAMA, SANDWICH, *(specs_of_family(kind, text) for kind, text in FAMILIES.items())]


def specs_of(dialect):
    """Of a model that may be spelled so."""
    return next(specs for specs in ALL if dialect in names.fitting(specs))


@pytest.mark.parametrize("dialect", names.DIALECTS.values(), ids=lambda d: d.name)
def test_every_parameter_entry_comes_from_exactly_one_tensor(dialect):
    specs = specs_of(dialect)
    slots = list(names.slots(specs, dialect))
    assert len({slot.key for slot in slots}) == len(slots)
    filled = {path: np.zeros(spec.shape, int) for path, spec in flatten(specs).items()}
    for slot in slots:
        filled[slot.path][slot.index()] += 1
    assert all((count == 1).all() for count in filled.values())


@given(
    layout=st.sampled_from([tensors.SAME, tensors.FLAT, tensors.LINEAR, tensors.MERGE]),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
)
def test_layouts_are_exactly_reversible(layout, shape):
    ours = np.arange(math.prod(shape)).reshape(shape)
    stored = layout.to_file(ours)
    assert stored.shape == layout.file_shape(shape)
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(layout.to_ours(stored, shape), ours)


def test_patch_convolution_is_flattened_channel_row_column():
    stored = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    ours = tensors.CONV.to_ours(stored, (48, 2))
    assert ours[1 * 16 + 2 * 4 + 3, 1] == stored[1, 1, 2, 3]
    np.testing.assert_array_equal(tensors.CONV.to_file(ours), stored)


def test_each_dialect_is_recognised_by_its_own_keys():
    for dialect in names.DIALECTS.values():
        specs = specs_of(dialect)
        keys = [slot.key for slot in names.slots(specs, dialect)]
        assert names.find_dialect(keys, specs, "x") == dialect
        assert names.find_dialect(keys[:-3], specs, "x") == dialect  # also of an incomplete file


def test_foreign_keys_are_bad_input():
    with pytest.raises(InputError, match="no tensor has such a name"):
        names.find_dialect(["transformer.h.0.attn.c_attn.weight"], LLAMA, "folder")


def test_only_recomputed_buffers_are_ignored():
    assert names.is_ignored("language_model.model.layers.0.self_attn.rotary_emb.inv_freq")
    assert names.is_ignored("vision_tower.vision_model.embeddings.position_ids")
    assert not names.is_ignored("vision_tower.vision_model.embeddings.position_embedding.weight")


def test_the_text_half_of_clip_is_told_from_the_tower():
    text = ("text_model.embeddings.position_ids", "text_projection.weight", "visual_projection.weight", "logit_scale")
    assert all(names.is_clip_text(key) for key in text)
    dialect = names.DIALECTS["llava_v5"]
    tower = [slot.key.removeprefix(dialect.vision) for slot in names.slots(LLAVA, dialect) if "vision" in slot.path]
    assert tower and not any(names.is_clip_text(prefix + key) for key in tower for prefix in ("", "vision_model."))


def test_adapters_have_the_module_names_of_the_class_that_loads_the_base():
    assert names.for_adapters("llava_v4", LLAVA).name == "llava_modules_v5"
    assert names.for_adapters("llava_original_split", LLAVA).name == "llava_original"
    assert names.for_adapters("text", LLAMA).name == "text"
    assert names.for_adapters("gemma3_text", SANDWICH).name == "gemma3_text"
