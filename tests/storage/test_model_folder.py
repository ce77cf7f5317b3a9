"""Model folders: what is written is what is loaded, and damaged or foreign ones are one clear error."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vlm_mu_jax
from tests.multidevice.start import run_together
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.quantize import Scheme, quantize
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.stored_params import ParamsReader

HF = {
    "model_type": "llava",
    "image_token_index": 49,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision_config": {
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    },
}


def write(out, hf_config=HF, dtype="float32", **options):
    rng = np.random.default_rng(0)
    specs = flatten(param_specs(from_hf(hf_config)))
    params = unflatten({path: rng.normal(size=spec.shape).astype(jnp.dtype(dtype)) for path, spec in specs.items()})
    options = {"files_from": None, "template": "plain", "dialect": "llava_v4", "provenance": {}} | options
    return model_folder.write_model_folder(out, params, hf_config, **options), params


def test_weights_are_quantised_on_loading_when_asked(tmp_path):
    folder, params = write(tmp_path / "m")
    model = vlm_mu_jax.load(folder, with_processor=False, quantize="int4:8")
    assert model.changed == "int4:8" and model.stored_sha256 == weights_hash(params)
    want = quantize(params, Scheme("int4", 8))
    jax.tree.map(np.testing.assert_array_equal, model.params, want)
    assert model_folder.quantized(model, Scheme("int4", 8)) is model, "rounded twice"
    twice = model_folder.quantized(model, Scheme("int8", None))
    assert twice.stored_sha256 == model.stored_sha256 and weights_hash(twice.params) != weights_hash(want)
    with pytest.raises(InputError, match="--quantize=int5"):
        vlm_mu_jax.load(folder, with_processor=False, quantize="int5")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_written_is_what_is_loaded(dtype, tmp_path):
    folder, params = write(tmp_path / "m", dtype=dtype)
    model = vlm_mu_jax.load(folder, with_processor=False)
    assert model.config == from_hf(HF) and model.folder == folder
    got, want = flatten(model.params), flatten(params)
    assert got.keys() == want.keys()
    for path in want:
        assert isinstance(got[path], jax.Array) and got[path].dtype == want[path].dtype == dtype
        np.testing.assert_array_equal(got[path], want[path])
    assert json.loads((folder / "vlm_mu_jax.json").read_text())["dtype"] == dtype
    assert json.loads((folder / "config.json").read_text()) == HF


def test_numpy_and_jax_params_are_written_alike(tmp_path):
    _, params = write(tmp_path / "a")
    model_folder.write_model_folder(
        tmp_path / "b", jax.tree.map(jnp.asarray, params), HF, None, "plain", "llava_v4", {}
    )
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(
            ParamsReader(tmp_path / "b" / "params").read(path, None, np.empty(99999, np.uint8)), leaf
        )


def test_loading_onto_a_mesh_uses_its_shardings(tmp_path):
    folder, params = write(tmp_path / "m")
    mesh = make_mesh()
    model = vlm_mu_jax.load(folder, mesh=mesh, with_processor=False)
    for path, leaf in flatten(model.params).items():
        assert leaf.sharding.mesh == mesh
        np.testing.assert_array_equal(leaf, flatten(params)[path])


TOGETHER = """
import sys
import jax
source, out, address, processes, process = sys.argv[1:]
jax.distributed.initialize(address, int(processes), int(process))
from tests.storage.test_model_folder import HF
from vlm_mu_jax import load
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.parallel.mesh import make_mesh
model = load(source, mesh=make_mesh(2, 2, 2), with_processor=False)
for _ in range(2):  # the second replaces the first
    model_folder.write_model_folder(out, model.params, HF, source, "plain", "llava_v4", {"made": "together"})
"""


def test_several_processes_write_one_folder(tmp_path):
    source, params = write(tmp_path / "m")
    (source / "tokenizer.json").write_text("{}")
    (tmp_path / "together.py").write_text(TOGETHER)
    run_together(tmp_path / "together.py", source, tmp_path / "out" / "n", processes=2, devices=4)
    model = vlm_mu_jax.load(tmp_path / "out" / "n", with_processor=False)
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])
    assert json.loads((model.folder / "provenance.json").read_text()) == {"made": "together"}
    assert (model.folder / "tokenizer.json").is_file() and len(list((tmp_path / "out").iterdir())) == 1


def test_a_workdir_stands_for_its_final_model(tmp_path):
    write(tmp_path / "run" / "model")
    assert vlm_mu_jax.load(tmp_path / "run", with_processor=False).folder == tmp_path / "run" / "model"


def test_companion_files_travel_and_others_do_not(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    travelling = {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"}
    for name in travelling | {"notes.txt", "trainer_state.json"}:
        (source / name).write_text("{}")
    folder, _ = write(tmp_path / "m", files_from=source)
    written = {path.name for path in folder.iterdir()}
    assert travelling <= written and not {"notes.txt", "trainer_state.json"} & written


def test_weights_of_another_model_name_every_difference(tmp_path):
    folder, _ = write(tmp_path / "m")
    wider = json.loads(json.dumps(HF))
    wider["text_config"]["intermediate_size"] = 40
    wider["text_config"]["attention_bias"] = True
    (folder / "config.json").write_text(json.dumps(wider))
    with pytest.raises(InputError, match="do not fit the config") as caught:
        vlm_mu_jax.load(folder, with_processor=False)
    assert "wup_LDF has shape" in str(caught.value) and "bq_LNH is missing" in str(caught.value)


def test_params_that_do_not_fit_are_not_written(tmp_path):
    _, params = write(tmp_path / "m")
    del params["projector"]
    with pytest.raises(InputError, match="projector/w1_ED is missing"):
        model_folder.write_model_folder(tmp_path / "n", params, HF, None, "plain", "llava_v4", {})
    assert not (tmp_path / "n").exists()


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        vlm_mu_jax.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no model"):
        vlm_mu_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(InputError, match="convert it first"):
        vlm_mu_jax.load(tmp_path)


def test_damaged_folders_are_one_line(tmp_path):
    folder, _ = write(tmp_path / "m")

    def broken(name, damage):
        copy = shutil.copytree(folder, tmp_path / name)
        damage(copy)
        with pytest.raises(InputError) as caught:
            vlm_mu_jax.load(copy, with_processor=False)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def largest(copy):
        return max((copy / "params").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)

    assert "params: missing" in broken("a", lambda copy: shutil.rmtree(copy / "params"))
    assert "cannot be read" in broken("b", lambda copy: os.truncate(largest(copy), 100))
    assert "cannot be read" in broken("g", lambda copy: largest(copy).unlink())
    assert "cannot be read" in broken("c", lambda copy: (copy / "params" / "_METADATA").unlink())
    assert "JSON" in broken("d", lambda copy: (copy / "vlm_mu_jax.json").write_text("{"))
    assert "format" in broken("e", lambda copy: (copy / "vlm_mu_jax.json").write_text("{}"))
    listed = '{"format": 1, "template": [], "dialect": "llava_v5", "dtype": "float32"}'
    assert "template is no text" in broken("h", lambda copy: (copy / "vlm_mu_jax.json").write_text(listed))
    assert "config.json: missing" in broken("f", lambda copy: (copy / "config.json").unlink())


def test_the_package_starts_without_jax():
    code = "import sys, vlm_mu_jax; assert 'jax' not in sys.modules; vlm_mu_jax.forward; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        vlm_mu_jax.nothing  # noqa: B018
