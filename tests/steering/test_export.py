"""Guards as files for other programs: hooks give our tokens; a control vector holds the shifts, or says why not."""

import dataclasses
import importlib.util
import json

import gguf
import numpy as np
import pytest

from tests.steering.conftest import QUESTIONS
from tests.steering.test_bake import BAKEABLE, NOT_BAKEABLE, torch_inputs
from vlm_mu_jax.conversion import exporter
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.steering.export import architecture_of, export_guard

GUARDS = {
    **BAKEABLE,
    **NOT_BAKEABLE,
    "text tokens": {"operator": "amplify", "component": "self", "gate": "none", "scope": "text"},
    "of the answer": {"operator": "reflect", "gate": "none", "scope": "generated"},
    "image hidden": {
        "operator": "add",
        "decide": "example",
        "gate_source": "text",
        "scope": "last",
        "hide_image": True,
        "strength": -8.0,
    },
}


@pytest.fixture(scope="module")
def hf_model(home, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf") / "model"
    exporter.export(home.folder, folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    model.generation_config.eos_token_id = None  # both sides make all tokens
    return model


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", GUARDS)
def test_hooks_give_our_tokens_and_can_be_removed(home, split_guard, pair, pictures, hf_model, name, tmp_path):
    torch = pytest.importorskip("torch")
    use = split_guard.using(**GUARDS[name])
    steer = use.steer(home)
    steer = steer(QUESTIONS, [[picture] for picture in pictures[:2]]) if callable(steer) else steer
    endless = dataclasses.replace(home.config, eos_ids=())
    ours = generate(home.params, pair, endless, max_new_tokens=6, steer=steer)
    hooks = module_of(export_guard(use, tmp_path / "guard_hooks.py")).attach(hf_model)
    try:
        for row, length in enumerate(np.asarray(pair.lengths_B)):
            inputs = torch_inputs(torch, pair, row, length)
            if use.options.first_pass_reads_text:
                with pytest.raises(ValueError, match="text_input_ids"):
                    hf_model(**inputs)
                hooks.text = (torch.tensor([home.processor.prompt_ids(QUESTIONS[row], images=0)]), None)
            made = hf_model.generate(
                **inputs,
                max_new_tokens=6,
                do_sample=False,
                suppress_tokens=[2],
                output_logits=True,
                return_dict_in_generate=True,
            )
            tokens = made.sequences[0, length:].tolist()
            assert tokens == np.asarray(ours.tokens_BG)[row].tolist()
            chosen = [float(torch.log_softmax(x[0].float(), -1)[t]) for x, t in zip(made.logits, tokens, strict=True)]
            np.testing.assert_allclose(chosen, np.asarray(ours.logprobs_BG)[row], atol=2e-3)
    finally:
        hooks.remove()
    plain = generate(home.params, pair, endless, max_new_tokens=6)
    assert np.abs(np.asarray(plain.logprobs_BG - ours.logprobs_BG)).max() > 0.05, "the guard must do something"
    inputs = torch_inputs(torch, pair, 0, int(np.asarray(pair.lengths_B)[0]))
    made = hf_model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=[2])
    assert made[0, -6:].tolist() == np.asarray(plain.tokens_BG)[0].tolist()


def test_a_control_vector_holds_the_shift_of_every_block_but_the_first(home, split_guard, tmp_path):
    use = split_guard.using(operator="add", strength=1.5, layers=(1, 3), gate="none", scope="all")
    file = export_guard(use, tmp_path / "guard.gguf", "control_vector", architecture_of(home))
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    shift_LD = np.asarray(use.as_steer().shift)
    assert sorted(found) == [f"direction.{block}" for block in range(1, len(shift_LD))]
    for block in range(1, len(shift_LD)):
        np.testing.assert_array_equal(found[f"direction.{block}"], shift_LD[block])
        assert found[f"direction.{block}"].dtype == np.float32 and found[f"direction.{block}"].any() == (
            block in (1, 3)
        )


@pytest.mark.parametrize("scope", ["all", "generated"])
def test_an_svec_holds_the_shift_of_every_steered_block(split_guard, scope, tmp_path):
    use = split_guard.using(operator="add", strength=1.5, layers=(0, 3), gate="none", scope=scope)
    found = json.loads(export_guard(use, tmp_path / "guard.svec", "svec", "qwen2").read_text())
    assert found["model_type"] == "qwen2" and list(found["directions"]) == ["0", "3"]
    for block, rows in found["directions"].items():
        np.testing.assert_array_equal(np.float32(rows), np.asarray(use.as_steer().shift)[[int(block)]])
    with pytest.raises(InputError, match="scope is 'last'"):
        export_guard(use.using(scope="last"), tmp_path / "other.svec", "svec")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"operator": "amplify"}, "depends on the state; nearest: --operator=add, or --as=hooks"),
        ({"operator": "ablate", "layers": (2,)}, "nearest: its weights, bin/guard bake"),
        ({"gate": "midpoint"}, "has no gate; nearest: --gate=none"),
        ({"scope": "last"}, "scope is 'last'; nearest: --scope=all"),
        ({"norm_preserving": True}, "rescale"),
        ({"layers": (0, 1)}, "never steers the output of block 0"),
    ],
)
def test_what_a_control_vector_cannot_hold_is_refused_with_what_comes_nearest(split_guard, change, said, tmp_path):
    use = split_guard.using(**{**BAKEABLE["add"], **change})
    with pytest.raises(InputError, match=said):
        export_guard(use, tmp_path / "guard.gguf", "control_vector")
    assert not list(tmp_path.iterdir())


def test_an_unknown_form_is_an_input_error(split_guard, tmp_path):
    with pytest.raises(InputError, match="use one of hooks, control_vector, svec"):
        export_guard(split_guard, tmp_path / "guard.onnx", "onnx")
