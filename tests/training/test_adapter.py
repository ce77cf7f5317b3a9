"""A LoRA run leaves an adapter that peft loads over the start model, with the logits of the trained model."""

import json

import jax
import numpy as np
import pytest
import torch
from peft import PeftModel

from tests.conversion.hf_checkpoints import make_llava, save
from tests.training import tiny
from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.conversion.peft_writer import export_adapter
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.model import lora
from vlm_mu_jax.model.vlm import Batch, forward, param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.storage.model_folder import write_model_folder
from vlm_mu_jax.training.adapter import save_adapter
from vlm_mu_jax.training.loop import fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.spec import TrainingSpec
from vlm_mu_jax.training.trainable import Selection

LORA = {"lora_rank": 2, "lora_alpha": 5.0, "lora_targets": ("wq.*", "wo.*", "wdown.*")}


def start_model():
    vision = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 2}
    return make_llava(1, text={"vocab_size": 32, "num_hidden_layers": 2}, vision=vision)


def torch_logits(model, row):
    images = torch.tensor(np.array(row.images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model(torch.tensor([row.ids]), pixel_values=images).logits[0].numpy()


def config_of(adapter):
    return json.loads((adapter / "adapter_config.json").read_text())


def test_peft_loads_the_run_and_computes_its_logits(tmp_path):
    done = import_checkpoint(save(start_model(), tmp_path / "start"))
    cfg, specs = done.config, param_specs(done.config)
    selection = Selection(select=("projector/.*",), **LORA)  # as LLaVA's own LoRA recipe: the projector trains whole
    spec = TrainingSpec(cfg, make_objective("sft"), OptimConfig(0.03), 3, selection)
    fitted = fit(spec, done.params, {"train": tiny.stream(cfg=cfg)})
    params, learned = fitted.params, fitted.trainable
    write_model_folder(tmp_path / "ours", done.params, done.hf_config, None, "plain", done.dialect, done.provenance)
    run = tmp_path / "run"
    assert save_adapter(run, learned, params, selection, specs, tmp_path / "ours", done.dialect) == "adapter"

    row = tiny.rows(1, seed=9, cfg=cfg)[0]
    batch = Batch(np.array([row.ids], np.int32), np.array([len(row.ids)], np.int32), np.array(row.images)[None])
    want = np.asarray(forward(params, batch, cfg).logits_BTV)[0]
    got = torch_logits(PeftModel.from_pretrained(start_model(), run / "adapter"), row)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(torch_logits(start_model(), row) - want).max() > 0.01, "training must have moved the logits"
    assert config_of(run / "adapter")["base_model_name_or_path"] == str(tmp_path / "start")

    write_model_folder(run / "model", params, done.hf_config, None, "plain", done.dialect, {})
    other = export_adapter(run, tmp_path / "for_llava", "llava_original")
    assert config_of(other)["target_modules"] == r"model\.layers\.\d+\.(self_attn|mlp)\.(down_proj|o_proj|q_proj)"
    assert config_of(other)["modules_to_save"] == ["model.mm_projector.0", "model.mm_projector.2"]
    back = export_adapter(run, tmp_path / "back")
    again = torch_logits(PeftModel.from_pretrained(start_model(), back), row)
    np.testing.assert_array_equal(again, got)


def test_a_run_that_no_adapter_can_hold_says_so(tmp_path):
    done = import_checkpoint(save(start_model(), tmp_path / "start"))
    specs, run = param_specs(done.config), tmp_path / "run"
    pairs = {"lora": lora.init_lora(specs, LORA["lora_targets"], 2, jax.random.key(0))}
    both = Selection(select=("decoder/layers/wq.*",), **LORA)
    (tmp_path / "ours").mkdir()
    write_json(tmp_path / "ours" / "provenance.json", {})
    said = save_adapter(run, pairs, done.params, both, specs, tmp_path / "ours", done.dialect)
    assert "q_proj was trained whole and with LoRA" in said and not run.exists()
    write_model_folder(run / "model", done.params, done.hf_config, None, "plain", done.dialect, {"adapter": said})
    with pytest.raises(InputError, match="q_proj was trained whole and with LoRA"):
        export_adapter(run, tmp_path / "out")
    write_model_folder(tmp_path / "whole", done.params, done.hf_config, None, "plain", done.dialect, {})
    with pytest.raises(InputError, match="trained no LoRA"):
        export_adapter(tmp_path / "whole", tmp_path / "out")
