"""Guards as weights, and as a module for transformers: the same logits and tokens as our own guarded program."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from tests.steering.conftest import QUESTIONS
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.steering import bake

ALWAYS = {"gate": "none", "scope": "all"}
BAKEABLE = {
    "ablate": {"operator": "ablate", "layers": (2,), **ALWAYS},
    "add": {"operator": "add", "strength": 2.0, "layers": (1, 2), **ALWAYS},
}
NOT_BAKEABLE = {
    "each layer its gate": {"operator": "amplify", "strength": 4.0, "gate": "midpoint_blank", "scope": "all"},
    "text alone": {
        "operator": "transplant",
        "strength": 1.0,
        "component": "text",
        "scope": "prompt",
        "gate": "midpoint",
        "decide": "example",
        "gate_source": "text",
        "gate_layers": (3,),
    },
    "the whole prompt": {
        "operator": "amplify",
        "strength": 4.0,
        "component": "self",
        "scope": "all",
        "gate": "midpoint_blank",
        "decide": "example",
    },
    "gated ablation": {
        "operator": "ablate",
        "layers": (2,),
        "decide": "example",
        "gate": "midpoint_blank",
        "scope": "prompt",
    },
    "never gated": {"operator": "add", "strength": 3.0, "gate": "none", "scope": "last", "norm_preserving": True},
}


@functools.partial(jax.jit, static_argnums=3)
def logits(params, batch, steer, cfg):
    return forward(params, batch, cfg, steer=steer).logits_BTV


def real(values_BTV, batch) -> list[np.ndarray]:
    """Logits of each row's real tokens."""
    return [np.asarray(row)[:length] for row, length in zip(values_BTV, np.asarray(batch.lengths_B), strict=True)]


@pytest.mark.parametrize("name", BAKEABLE)
def test_baked_weights_give_the_logits_of_the_guard(home, split_guard, pair, name):
    use = split_guard.using(**BAKEABLE[name])
    hf_config = json.loads((home.folder / "config.json").read_text())
    params, baked_config = bake.bake(use, home.params, hf_config)
    baked = logits(params, pair, None, from_hf(baked_config))
    guarded, plain = (logits(home.params, pair, steer, home.config) for steer in (use.as_steer(), None))
    for ours, wanted, unguarded in zip(real(baked, pair), real(guarded, pair), real(plain, pair), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-3)
        assert np.abs(ours - unguarded).max() > 0.05


@pytest.mark.parametrize("name", BAKEABLE)
def test_transformers_reads_the_baked_checkpoint(home, split_guard, pair, name, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    use = split_guard.using(**BAKEABLE[name])
    model = transformers.AutoModelForImageTextToText.from_pretrained(bake.export_baked(use, home, tmp_path / "hf"))
    wanted = real(logits(home.params, pair, use.as_steer(), home.config), pair)
    for row, length in enumerate(np.asarray(pair.lengths_B)):
        with torch.no_grad():
            found = model(**torch_inputs(torch, pair, row, length)).logits[0].numpy()
        np.testing.assert_allclose(found, wanted[row], atol=2e-3)


@pytest.mark.parametrize("name", NOT_BAKEABLE)
def test_the_module_answers_as_our_guard(home, split_guard, pair, pictures, name, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    use = split_guard.using(**NOT_BAKEABLE[name])
    assert bake.obstacle(use.options, {"text_config": {"model_type": "llama"}})
    steer = use.steer(home)
    steer = steer(QUESTIONS, [[picture] for picture in pictures[:2]]) if callable(steer) else steer
    ours = generate(home.params, pair, dataclasses.replace(home.config, eos_ids=()), max_new_tokens=4, steer=steer)
    if use.options.gate != "none":
        assert len(set(np.asarray(ours.gate_LB)[1].tolist())) == 2, "one row's gate must be on, the other's off"
    folder = bake.export_with_module(use, home, tmp_path / "hf")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "GuardedLlavaForConditionalGeneration"
    model.generation_config.eos_token_id = None  # both sides make all tokens
    for row, length in enumerate(np.asarray(pair.lengths_B)):
        inputs = torch_inputs(torch, pair, row, length)
        if use.options.first_pass_reads_text:
            with pytest.raises(ValueError, match="text_input_ids"):
                model(**inputs)
            inputs["text_input_ids"] = torch.tensor([home.processor.prompt_ids(QUESTIONS[row], images=0)])
        made = model.generate(**inputs, max_new_tokens=4, do_sample=False, suppress_tokens=[2])
        assert made[0, length:].tolist() == np.asarray(ours.tokens_BG)[row].tolist()


def torch_inputs(torch, batch, row: int, length: int) -> dict:
    ids = torch.tensor(np.asarray(batch.tokens_BT)[row : row + 1, :length]).long()
    pixels = torch.tensor(np.asarray(batch.pixels_BMHWC)[row]).permute(0, 3, 1, 2)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"gate": "midpoint"}, "gate depends on the input"),
        ({"operator": "amplify"}, "RMSNorm"),
        ({"operator": "project_out"}, "RMSNorm"),
        ({"norm_preserving": True}, "RMSNorm"),
        ({"scope": "prompt"}, "scope 'prompt'"),
    ],
)
def test_what_cannot_be_weights_says_why(split_guard, change, said):
    use = split_guard.using(**{**BAKEABLE["add"], **change})
    with pytest.raises(InputError, match=f"{said}.*--module"):
        bake.bake(use, {}, {"text_config": {"model_type": "llama"}})


def test_checkpoints_that_have_no_place_for_it_say_why(split_guard):
    ablate, add = (split_guard.using(**BAKEABLE[name]).options for name in BAKEABLE)
    assert "tie_word" in bake.obstacle(ablate, {"text_config": {"tie_word_embeddings": True}})
    assert "mistral" in bake.obstacle(add, {"text_config": {"model_type": "mistral"}})
