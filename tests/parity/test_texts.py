"""Text models of other families than Llama equal PyTorch transformers, in float32 over tiny random checkpoints."""

import filecmp

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.conversion.hf_checkpoints import draw_text, make_llama, randomise, save
from tests.parity.test_llava_logits import assert_same_logits, rope
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.conversion.exporter import export_params
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import Batch

YARN = rope("yarn", 4.0) | {"original_max_position_embeddings": 16}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 24}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
}


def qwen2(seed, **fixed):
    config = transformers.Qwen2Config(**draw_text(seed, **fixed))
    return randomise(transformers.Qwen2ForCausalLM(config), seed)


def qwen3(seed, **fixed):
    config = transformers.Qwen3Config(**draw_text(seed, **{"head_dim": 10} | fixed))
    return randomise(transformers.Qwen3ForCausalLM(config), seed)


def gemma3(seed, **fixed):
    drawn = draw_text(seed, **{"head_dim": 12, "rope_parameters": TWO_ROPES, "tie_word_embeddings": True} | fixed)
    config = transformers.Gemma3TextConfig(**drawn, query_pre_attn_scalar=7)
    model = randomise(transformers.Gemma3ForCausalLM(config), seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight -= 1  # scales are 1 + w here
    return model


CASES = {
    "qwen2": (qwen2, GROUPED),
    "qwen2_tied": (qwen2, {"tie_word_embeddings": True}),
    "qwen2_window_from_layer_1": (
        qwen2,
        {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2_yarn": (qwen2, {"rope_parameters": YARN}),
    "qwen3": (qwen3, GROUPED),
    "qwen3_biases_yarn": (qwen3, {"attention_bias": True, "rope_parameters": YARN | {"attention_factor": 1.3}}),
    "llama_yarn_not_truncated": (make_llama, {"rope_parameters": YARN | {"truncate": False, "beta_fast": 4.0}}),
    "gemma3": (gemma3, {"num_hidden_layers": 3, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
    "gemma3_grouped_by_pattern": (gemma3, GROUPED | {"num_hidden_layers": 4, "sliding_window_pattern": 2}),
    "gemma3_local_only": (gemma3, {"num_hidden_layers": 2, "layer_types": ["sliding_attention"] * 2}),
}


def make(name):
    build, fixed = CASES[name]
    return build(200 + list(CASES).index(name), **({"sliding_window": 5} if build is gemma3 else {}), **fixed)


@pytest.mark.parametrize("name", CASES)
def test_logits_answers_and_files_equal_transformers(name, tmp_path):
    theirs = make(name)
    ours = importer.import_checkpoint(save(theirs, tmp_path / "theirs"))
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, ours.config.text.V, size).tolist() for size in (9, 26, 1)]
    assert_same_logits(theirs, ours, rows, [[], [], []])
    assert_same_greedy(theirs, ours, rows[:2])
    back = export_params(tmp_path / "back", ours.params, theirs.config.to_dict())
    assert filecmp.cmp(tmp_path / "theirs" / "model.safetensors", back / "model.safetensors", shallow=False) or same(
        tmp_path / "theirs", back
    )


def assert_same_greedy(theirs, ours, rows):
    """24 tokens, decoded from a cache on both sides, in one ragged batch of ours."""
    width = max(map(len, rows))
    tokens = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    cfg = ours.config.__class__(ours.config.text)  # no end token: all 24
    made = generate(ours.params, Batch(jnp.asarray(tokens), jnp.array([len(r) for r in rows])), cfg, max_new_tokens=24)
    for row, got in zip(rows, np.asarray(made.tokens_BG), strict=True):
        options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        ids = torch.tensor([row])
        want = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(row) :].tolist()
        assert got.tolist() == want


def same(one, other):
    from safetensors.numpy import load_file

    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    return all(a[key].tobytes() == b[key].tobytes() for key in a)


REFUSED = {
    "softcap": (gemma3, {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "both ways": (gemma3, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "activation": (qwen2, {"hidden_act": "gelu_fast"}, "gelu_fast"),
    "part of a head": (make_llama, {"rope_parameters": PARTIAL}, "partial_rotary_factor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_we_do_not_have_is_refused_when_the_config_is_read(name):
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.model.families import from_hf

    build, change, word = REFUSED[name]
    config = build(0, **change).config.to_dict()
    with pytest.raises(InputError, match=word):
        from_hf(config)
