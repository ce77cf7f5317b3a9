"""LLaVA over other parts equals PyTorch transformers: SigLIP towers, Qwen text models, ViP-LLaVA."""

import dataclasses

import jax
import numpy as np
import pytest
import transformers

from tests.conversion.hf_checkpoints import draw_text, draw_vision, make_llava, randomise, save
from tests.parity.test_llava_logits import assert_same_logits, llava_rows, our_logits
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.conversion.exporter import export_params
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import Batch

QWEN2, QWEN3 = transformers.Qwen2Config, transformers.Qwen3Config


def llava(seed, text=QWEN2, tower=transformers.SiglipVisionConfig, **fixed):
    text_config = text(**draw_text(seed, **({"head_dim": 10} if text is QWEN3 else {})))
    config = transformers.LlavaConfig(
        text_config=text_config,
        vision_config=tower(**draw_vision(seed, **fixed.pop("vision", {}))),
        image_token_index=text_config.vocab_size - 1,
        **fixed,
    )
    return randomise(transformers.LlavaForConditionalGeneration(config), seed)


def vipllava(seed):
    text = transformers.LlamaConfig(**draw_text(seed))
    config = transformers.VipLlavaConfig(
        text_config=text,
        vision_config=transformers.CLIPVisionConfig(**draw_vision(seed, num_hidden_layers=3)),
        image_token_index=text.vocab_size - 1,
        vision_feature_layer=[-2, -1, 1],
        projector_layernorm_eps=0.01,
    )
    return randomise(transformers.VipLlavaForConditionalGeneration(config), seed)


CASES = {
    "siglip_and_qwen2": lambda seed: llava(seed, vision_feature_layer=-1, vision_feature_select_strategy="full"),
    "siglip_without_its_head": lambda seed: llava(
        seed, vision={"vision_use_head": False}, vision_feature_select_strategy="full"
    ),
    "siglip_that_drops_its_first_patch": llava,
    "clip_and_qwen3": lambda seed: llava(seed, QWEN3, transformers.CLIPVisionConfig),
    "vipllava": vipllava,
}


@pytest.mark.parametrize("name", CASES)
def test_logits_and_files_equal_transformers(name, tmp_path):
    seed = 300 + list(CASES).index(name)
    theirs = CASES[name](seed)
    ours = importer.import_checkpoint(save(theirs, tmp_path / "theirs"))
    rows, pixels = llava_rows(ours.config, seed)
    assert_same_logits(theirs, ours, rows, pixels)
    assert_answers_are_those_of_the_whole_forward(ours, rows, pixels)
    back = export_params(tmp_path / "back", ours.params, theirs.config.to_dict(), files_from=None)
    again = importer.import_checkpoint(back).params
    for a, b in zip(_leaves(again), _leaves(ours.params), strict=True):
        assert a.tobytes() == b.tobytes()
    reloaded = type(theirs).from_pretrained(back)
    want = theirs.state_dict()
    assert all(np.array_equal(value, want[key]) for key, value in reloaded.state_dict().items())


def assert_answers_are_those_of_the_whole_forward(ours, rows, pixels, new=6):
    """Greedy tokens decoded from a cache, in one ragged batch, against logits of the rows written out."""
    size, width = ours.config.vision.image_size, max(map(len, rows))
    stacked = np.zeros((len(rows), 2, size, size, 3), np.float32)
    tokens = np.zeros((len(rows), width), np.int32)
    for i, (row, images) in enumerate(zip(rows, pixels, strict=True)):
        tokens[i, : len(row)] = row
        stacked[i, : len(images)] = np.array(images).reshape(-1, size, size, 3)
    lengths, cfg = np.array([len(row) for row in rows], np.int32), dataclasses.replace(ours.config, eos_ids=())
    made = np.asarray(generate(ours.params, Batch(tokens, lengths, stacked), cfg, max_new_tokens=new).tokens_BG)
    whole = [[*row, *answer] for row, answer in zip(rows, made.tolist(), strict=True)]
    logits = our_logits(ours, whole, pixels).copy()
    logits[..., cfg.image_token_id] = -np.inf  # an answer never holds the placeholder
    for i, row in enumerate(rows):
        assert logits[i, len(row) - 1 : len(row) + new - 1].argmax(-1).tolist() == made[i].tolist()


def _leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_tower_that_we_do_not_have_is_refused_by_name():
    config = make_llava(0).config.to_dict()
    config["vision_config"]["model_type"] = "dinov2"
    with pytest.raises(InputError, match="vision tower 'dinov2' is not supported; use one of clip_vision_model"):
        from_hf(config)
