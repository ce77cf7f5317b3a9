"""Logits equal PyTorch transformers in float32, over drawn checkpoints of every supported layout."""

import copy

import jax
import numpy as np
import pytest
import torch

from tests.conversion.hf_checkpoints import LLAMA3_ROPE, make_llama, make_llava, make_mistral, save
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.model.vlm import Batch, forward

TOLERANCE = 1e-4


def rope(kind: str, factor: float) -> dict:
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": factor}


LLAVA_CASES = {
    "multi_head": {"text": {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 24}},
    "grouped_queries": {"text": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 36}},
    "one_kv_head": {
        "text": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 18, "rms_norm_eps": 0.05}
    },
    "odd_sizes": {
        "text": {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 22, "head_dim": 14},
        "vision": {"patch_size": 5, "image_size": 13},
    },
    "tied": {"text": {"tie_word_embeddings": True}, "tie_word_embeddings": True},
    "biases": {"text": {"attention_bias": True, "mlp_bias": True}},
    "no_projector_bias": {"multimodal_projector_bias": False, "vision": {"layer_norm_eps": 0.05}},
    "rope_linear": {"text": {"rope_parameters": rope("linear", 3.0)}},
    "rope_dynamic": {"text": {"rope_parameters": rope("dynamic", 2.0), "max_position_embeddings": 12}},
    "rope_llama3": {"text": {"rope_parameters": LLAMA3_ROPE}},
    "feature_layer_last": {"vision_feature_layer": -1, "vision": {"hidden_act": "gelu"}},
    "feature_layer_positive": {"vision_feature_layer": 1, "vision": {"num_hidden_layers": 4}},
    "feature_layer_list": {"vision": {"num_hidden_layers": 3}, "vision_feature_layer": [-1, 1, -3]},
    "class_token_kept": {"vision_feature_select_strategy": "full"},
    "list_with_class_token": {"vision_feature_layer": [-2, -1], "vision_feature_select_strategy": "full"},
    "one_deep_four_deep": {"text": {"num_hidden_layers": 1}, "vision": {"num_hidden_layers": 4}},
}
TEXT_CASES = {
    "llama_tied": (make_llama, {"tie_word_embeddings": True}),
    "llama_grouped_bias": (
        make_llama,
        {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 24, "attention_bias": True},
    ),
    "llama_rope_dynamic": (make_llama, {"rope_parameters": rope("dynamic", 4.0), "max_position_embeddings": 10}),
    "llama_rope_llama3": (make_llama, {"rope_parameters": LLAMA3_ROPE}),
    "mistral": (make_mistral, {"sliding_window": None}),
    "mistral_window": (make_mistral, {"sliding_window": 5}),
    "mistral_head_dim": (make_mistral, {"sliding_window": None, "head_dim": 12}),
}


@pytest.mark.parametrize("name", LLAVA_CASES)
def test_llava_logits_equal_transformers(name, tmp_path):
    seed = list(LLAVA_CASES).index(name)
    theirs = make_llava(seed, **LLAVA_CASES[name])
    ours = importer.import_checkpoint(save(theirs, tmp_path))
    rows, pixels = llava_rows(ours.config, seed)
    assert_same_logits(theirs, ours, rows, pixels)


@pytest.mark.parametrize("name", TEXT_CASES)
def test_text_logits_equal_transformers(name, tmp_path):
    seed = 100 + list(TEXT_CASES).index(name)
    make, fixed = TEXT_CASES[name]
    theirs = make(seed, **fixed)
    ours = importer.import_checkpoint(save(theirs, tmp_path))
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, ours.config.text.V, size).tolist() for size in (7, 23, 1)]
    assert_same_logits(theirs, ours, rows, [[], [], []])


def llava_rows(cfg, seed):
    """Ragged rows: an image in the middle, two images apart, an image first, two images touching, no image at all."""
    rng = np.random.default_rng(seed)
    image = [cfg.image_token_id] * cfg.vision.P

    def words(count):
        return rng.integers(0, cfg.image_token_id, count).tolist()

    rows = [
        words(5) + image + words(6),
        words(2) + image + words(3) + image + words(4),
        image + words(3),
        words(1) + image + image + words(2),
        words(9),
    ]
    size = cfg.vision.image_size
    pixels = [[rng.normal(size=(size, size, 3)).astype(np.float32) for _ in range(n)] for n in (1, 2, 1, 2, 0)]
    return rows, pixels


def assert_same_logits(theirs, ours, rows, pixels):
    """One padded batch of ours against transformers row by row."""
    got = our_logits(ours, rows, pixels)
    worst, scale = 0.0, 0.0
    for row, (ids, images) in enumerate(zip(rows, pixels, strict=True)):
        want = torch_logits(theirs, ids, images)
        worst = max(worst, float(np.abs(got[row, : len(ids)] - want).max()))
        scale = max(scale, float(np.abs(want).max()))
    assert scale > 0.5, "logits too small for the tolerance to mean anything"
    assert worst <= TOLERANCE, f"max abs difference {worst:.2e} at logits up to {scale:.1f}"


def our_logits(ours, rows, pixels):
    lengths = np.array([len(ids) for ids in rows], np.int32)
    tokens = np.full((len(rows), lengths.max() + 3), 1, np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    most = max(len(images) for images in pixels)
    stacked = None
    if most:
        size = ours.config.vision.image_size
        stacked = np.zeros((len(rows), most, size, size, 3), np.float32)
        for row, images in enumerate(pixels):
            stacked[row, : len(images)] = np.array(images).reshape(-1, size, size, 3)
    output = jax.jit(forward, static_argnums=2)(ours.params, Batch(tokens, lengths, stacked), ours.config)
    return np.asarray(output.logits_BTV)


def torch_logits(model, ids, images):
    """A fresh copy per row: dynamic rope of transformers remembers the longest row it has seen."""
    extra = {"pixel_values": torch.tensor(np.array(images)).permute(0, 3, 1, 2)} if images else {}
    with torch.no_grad():
        return copy.deepcopy(model)(input_ids=torch.tensor([ids]), **extra).logits[0].numpy()
