"""LoRA adapters are merged as peft merges them, whatever they are spelled like."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.conversion.hf_checkpoints import edit_json, make_llama, make_llava, save
from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.source import open_source
from vlm_mu_jax.conversion.tensor_files import open_tensors
from vlm_mu_jax.errors import InputError

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": (make_llama, {}, {"target_modules": ["q_proj", "v_proj"]}),
    "rslora": (make_llama, {}, {"target_modules": LINEARS, "use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        make_llama,
        {"num_hidden_layers": 2},
        {
            "target_modules": LINEARS,
            "rank_pattern": {"q_proj": 4},
            "alpha_pattern": {r"layers\.1\..*": 24, "o_proj": 2},
        },
    ),
    "embedding_and_head": (make_llama, {}, {"target_modules": ["embed_tokens", "lm_head", "down_proj"]}),
    "tied_embedding": (make_llama, {"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "up_proj"]}),
    "modules_to_save": (make_llama, {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "biases": (make_llama, {"attention_bias": True}, {"target_modules": ["q_proj", "o_proj"], "bias": "all"}),
    "some_layers": (make_llama, {"num_hidden_layers": 3}, {"target_modules": LINEARS, "layers_to_transform": [1]}),
    "vision_and_projector": (make_llava, {}, {"target_modules": "all-linear"}),
    "projector_whole": (make_llava, {}, {"target_modules": ["q_proj"], "modules_to_save": ["linear_1", "linear_2"]}),
}


def adapted(model, seed, **options):
    """A peft model over `model` whose adapter (and what else it trains) is random."""
    wrapped = get_peft_model(model, LoraConfig(**({"r": 3, "lora_alpha": 6} | options)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (weight for weight in wrapped.parameters() if weight.requires_grad):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return wrapped


def merged_tensors(base, adapter, **options):
    """Every tensor that the converter would read, by key."""
    with open_source(base, open_tensors, lora=adapter, **options) as source:
        assert not source.files.problems
        return {slot.key: source.files.read(slot.key) for slot in names.slots(source.specs, source.dialect)}


@pytest.mark.parametrize("name", CASES)
def test_merging_equals_merge_and_unload(name, tmp_path):
    make, fixed, options = CASES[name]
    seed = list(CASES).index(name)
    base = save(make(seed, **fixed), tmp_path / "base")
    wrapped = adapted(make(seed, **fixed), seed, **options)
    wrapped.save_pretrained(tmp_path / "adapter")
    got = merged_tensors(base, tmp_path / "adapter")
    want = load_file(save(wrapped.merge_and_unload(), tmp_path / "merged") / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert got.keys() == want.keys() and any(not torch.equal(before[key], want[key]) for key in want)
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value.numpy(), rtol=1e-6, atol=1e-6, err_msg=key)
        if torch.equal(before[key], value):
            assert np.array_equal(got[key], value.numpy()), f"{key} is not adapted and must keep its bits"


def test_half_precision_is_summed_in_float32_and_rounded_once(tmp_path):
    base = save(make_llama(20).to(torch.bfloat16), tmp_path / "base")
    adapted(make_llama(20), 1, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    key = "model.layers.0.self_attn.q_proj.weight"
    pair = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (pair[f"base_model.model.{key.removesuffix('.weight')}.lora_{half}.weight"] for half in "AB")
    want = (load_file(base / "model.safetensors")[key].float() + 2.0 * (b @ a)).to(torch.bfloat16)
    got = merged_tensors(base, tmp_path / "adapter")[key]
    assert np.array_equal(got.view(np.uint16), want.view(torch.uint16).numpy())


@pytest.mark.parametrize(
    "spelling",
    [
        {"model.language_model.": "language_model.model."},  # transformers < 4.52
        {"model.language_model.": "model."},  # the original LLaVA
        {".lora_A.weight": ".lora_A.default.weight", ".lora_B.weight": ".lora_B.default.weight"},  # peft < 0.4
    ],
    ids=["transformers_v4", "original", "with_adapter_name"],
)
def test_an_adapter_may_be_spelled_otherwise_than_its_base(spelling, tmp_path):
    base = save(make_llava(21), tmp_path / "base")
    adapted(make_llava(21), 2, target_modules=r".*language_model.*(q_proj|down_proj)").save_pretrained(tmp_path / "a")
    want = merged_tensors(base, tmp_path / "a")
    respell(tmp_path / "a" / "adapter_model.safetensors", spelling)
    got = merged_tensors(base, tmp_path / "a")
    assert all(np.array_equal(got[key], want[key]) for key in want)


def respell(file, spelling):
    tensors = load_file(file)
    for old, new in spelling.items():
        assert any(old in key for key in tensors)
        tensors = {key.replace(old, new): value for key, value in tensors.items()}
    save_file(tensors, file)


@pytest.fixture
def plain(tmp_path):
    """(base, adapter) folders that fit."""
    base = save(make_llama(22), tmp_path / "base")
    adapted(make_llama(22), 3, target_modules=["q_proj", "o_proj"]).save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora True"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"some_new_method": {"rank": 3}}, "some_new_method"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern|field is missing or wrong"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(plain, change, message):
    base, adapter = plain
    edit_json(adapter / "adapter_config.json", **change)
    with pytest.raises(InputError, match=message) as caught:
        merged_tensors(base, adapter)
    assert "\n" not in str(caught.value)


def problems(base, adapter):
    with open_source(base, open_tensors, lora=adapter) as source:
        return "\n".join(source.files.problems)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, k: t.pop(k), "has only lora_B of its pair"),
        (lambda t, k: t.update({k.replace("layers.0", "layers.9"): t.pop(k)}), "layers.9.self_attn"),
        (lambda t, k: t.update({k: torch.ones(3, 5)}), "its pair makes"),
        (lambda t, k: t.update({k: torch.ones(2, t[k].shape[1])}), "different ranks"),
        (lambda t, k: t.update({k: torch.tensor(1.0)}), "lora_A.weight is empty"),
        (lambda t, k: t.update({k: torch.ones(3, 2, 2)}), "only LoRA on linear layers"),
        (lambda t, k: t.update({k: t[k].to(torch.int8)}), "has dtype I8"),
        (lambda t, k: t.update({k.replace("lora_A", "lora_magnitude_vector"): torch.ones(3)}), "plain LoRA pair"),
        (lambda t, k: t.update({"base_model.model.score.weight": torch.ones(3)}), "score.weight belongs to no tensor"),
    ],
)
def test_tensors_that_fit_nothing_are_named(plain, edit, message):
    base, adapter = plain
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    save_file({key: value.contiguous() for key, value in tensors.items()}, adapter / "adapter_model.safetensors")
    assert message in problems(base, adapter)


def test_an_adapter_of_another_size_names_every_layer(plain, tmp_path):
    _, adapter = plain
    other = save(make_llama(23, hidden_size=14, num_attention_heads=1, num_key_value_heads=1), tmp_path / "other")
    found = problems(other, adapter)
    assert "q_proj.weight: its pair makes" in found and "o_proj.weight: its pair makes" in found


def test_a_folder_without_an_adapter(plain, tmp_path):
    base, adapter = plain
    with pytest.raises(InputError, match=r"adapter_config.json"):
        problems(base, base)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no adapter_model.safetensors"):
        problems(base, adapter)
