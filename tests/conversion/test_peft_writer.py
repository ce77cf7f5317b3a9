"""LoRA pairs are written so that peft loads them and computes what we compute."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.conversion.hf_checkpoints import make_llama, make_llava, save
from tests.conversion.test_peft import merged_tensors
from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.peft_writer import write_adapter
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import lora, vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, unflatten


def drawn_pairs(specs, targets, rank, seed):
    rng = np.random.default_rng(seed)
    shapes = flatten(lora.lora_specs(specs, targets, rank))
    return unflatten({path: rng.normal(0, 0.2, spec.shape).astype(np.float32) for path, spec in shapes.items()})


def written(model, folder, targets, dialect, whole=None, alpha=6.0):
    """An adapter of random pairs over `model`; `whole` as in `write_adapter`, with random values."""
    cfg = from_hf(model.config.to_dict())
    specs = vlm.param_specs(cfg)
    shapes, rng = flatten(specs), np.random.default_rng(5)
    values = {path: rng.normal(size=spec.shape).astype(np.float32) for path, spec in shapes.items()}
    pairs = drawn_pairs(specs, targets, 3, 4)
    write_adapter(folder, pairs, alpha, whole or {}, values.get, specs, names.DIALECTS[dialect], "some/base")
    return pairs, values


def logits(model, ids=(3, 1, 4, 1, 5, 9)):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("targets", [("wq.*", "wv.*"), (".*",), ("wo_LNHD", "wdown_LFD")])
@pytest.mark.parametrize(
    ("make", "dialect", "fixed"),
    [
        (make_llama, "text", {"num_hidden_layers": 2}),
        (make_llava, "llava_modules_v5", {"text": {"num_hidden_layers": 2}}),
    ],
)
def test_peft_loads_what_we_write_and_computes_the_same(make, dialect, fixed, targets, tmp_path):
    model = make(24, **fixed)
    pairs, _ = written(model, tmp_path / "adapter", targets, dialect)
    before = logits(model)
    loaded = PeftModel.from_pretrained(model, tmp_path / "adapter")
    # our own merge of the same pairs, put into the torch model by hand
    want = make(24, **fixed)
    state = want.state_dict()
    for name, pair in pairs["decoder"]["layers"].items():
        for layer in range(2):
            key = f"{names.DIALECTS[dialect].text}layers.{layer}.{module_of(name)}.weight"
            delta = 2.0 * pair["a"][layer] @ pair["b"][layer].reshape(3, -1)
            state[key] += torch.tensor(delta.T)
    torch.testing.assert_close(logits(loaded), logits(want), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, logits(loaded), atol=1e-2)


def module_of(name):
    head, _, _ = name.partition("_")
    part = "self_attn" if head in ("wq", "wk", "wv", "wo") else "mlp"
    return f"{part}.{head.removeprefix('w')}_proj"


def test_parameters_trained_whole_travel_in_the_adapter(tmp_path):
    model = make_llava(25, text={"num_hidden_layers": 2})
    whole = {"projector/w1_ED": None, "projector/b1_D": None, "decoder/layers/wdown_LFD": (1,)}
    _, values = written(model, tmp_path / "adapter", ("wq.*",), "llava_modules_v5", whole)
    merged = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().state_dict()
    projector = merged["model.multi_modal_projector.linear_1.weight"].numpy()
    np.testing.assert_array_equal(projector, values["projector/w1_ED"].T)
    np.testing.assert_array_equal(merged["model.multi_modal_projector.linear_1.bias"], values["projector/b1_D"])
    down = [merged[f"model.language_model.layers.{i}.mlp.down_proj.weight"].numpy() for i in (0, 1)]
    np.testing.assert_array_equal(down[1], values["decoder/layers/wdown_LFD"][1].T)
    assert not np.array_equal(down[0], values["decoder/layers/wdown_LFD"][0].T)


def test_what_an_adapter_cannot_hold_is_refused(tmp_path):
    model = make_llava(26)
    with pytest.raises(InputError, match="q_proj was trained whole and with LoRA"):
        written(model, tmp_path / "a", ("wq.*",), "llava_modules_v5", {"decoder/layers/wq_LDNH": None})
    with pytest.raises(InputError, match="vision/class_D"):
        written(model, tmp_path / "a", ("wq.*",), "llava_modules_v5", {"vision/class_D": None})
    assert not (tmp_path / "a").exists()


def test_our_own_adapter_merges_back(tmp_path):
    base = save(make_llava(27), tmp_path / "base")
    pairs, _ = written(make_llava(27), tmp_path / "adapter", ("wo_LNHD",), "llava_modules_v5", alpha=1.5)
    key = "language_model.model.layers.0.self_attn.o_proj.weight"
    before = load_file(base / "model.safetensors")[key].numpy()
    pair = pairs["decoder"]["layers"]["wo_LNHD"]
    want = before + 0.5 * (pair["a"][0] @ pair["b"][0]).T
    np.testing.assert_allclose(merged_tensors(base, tmp_path / "adapter")[key], want, rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["lora_alpha"] == 1.5
