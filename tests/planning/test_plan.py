"""bin/plan on a small model: its report, its verdict, its errors."""

import dataclasses
import json
import re

import jax
import pytest

from tests.command import run_command
from tests.conftest import ROOT
from vlm_mu_jax.benchmark.suites import plans
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.planning import jobs, topology
from vlm_mu_jax.planning import plan as planner
from vlm_mu_jax.planning.compilation import compile_ahead

TEXT = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
}
KEYS = {
    "topology",
    "chips",
    "basis",
    "peak_bytes_per_chip",
    "hbm_bytes",
    "fits",
    "flops_per_step",
    "roofline_seconds",
    "roofline",
    "bound",
    "mfu_at_roofline",
    "collectives",
    "argument_bytes",
    "temporary_bytes",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "bfloat16", **TEXT}))
    return folder


def plan(*arguments, variant="7b_npo_lora"):
    config = f"--config={ROOT}/configs/llava15_unlearn.py:{variant}"
    # Programs for absent chips cannot be read back.
    return run_command("plan", config, *arguments, env={"JAX_COMPILATION_CACHE_DIR": None}, timeout=300)


def small(model):
    return f"--config.model.init={model}", "--config.data.max_length=128"


@pytest.fixture
def compiler():
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'vlm_mu_jax[tpu]'")


@pytest.mark.slow
def test_train_report(model, compiler):
    done = plan("--topology=v5e:2x2", "--json", *small(model))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS and found["fits"] and found["chips"] == 4
    assert any("splash_mha_fwd" in name for name in found["kernels"])  # the Pallas kernel compiles for the TPU
    assert found["collectives"]["all-gather"]["bytes"] > 0
    assert found["argument_bytes"] < found["peak_bytes_per_chip"] < found["hbm_bytes"]
    needed = found["flops_per_step"]
    assert needed < found["executed_flops_per_chip"] * found["chips"] < 3 * needed
    assert found["roofline_seconds"] == max(found["roofline"].values())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["guard", "attack"])
def test_other_programs(model, compiler, what):
    done = plan(f"--what={what}", "--topology=v5e:2x2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", *small(model))
    assert done.returncode == 0, done.stderr
    assert "fits" in done.stdout and "roofline" in done.stdout
    assert re.search(r"tokens +\d+ per second", done.stdout) and "all-reduce" in done.stdout.partition("per turn")[2]


def settings_of(model, **changes):
    chosen = plans._settings("7b_npo_lora", {})
    chosen["model"] |= {"init": str(model), **changes}
    chosen["data"] |= {"max_length": 128}
    return chosen


def planned(what, chosen, where):
    """In this process, so that a test can look at what is compiled; how fast the program would be is not asked."""
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        return planner.plan(what, chosen, jobs.model_config(chosen), where, tell=lambda line: None)
    finally:
        jax.config.update("jax_exec_time_optimization_effort", 0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")  # for absent chips
def test_gpus_are_estimates_and_say_so(model, compiler, monkeypatch):
    """From the whole program, or from shallow ones where the stand-in is too small for it."""
    chosen, where = settings_of(model), topology.target("gpu:1xH200")
    whole = planned("decode", chosen, where)
    assert whole["basis"].startswith("estimated, not compiled for this GPU: the same program for 1 x TPU v5p")
    assert "extrapolated" not in whole["basis"]
    monkeypatch.setattr(planner, "_limit", lambda target: 1.0)
    shallow = planned("decode", chosen, where)
    assert shallow["basis"].endswith("at 2 and 4 decoder layers, extrapolated to 4")
    assert shallow["peak_bytes_per_chip"] == whole["peak_bytes_per_chip"]


def test_weights_that_are_too_large_need_no_compilation(model, compiler):
    done = plan("--topology=v5e:2x2", "--hbm_gib=8", variant="13b_npo")
    assert done.returncode == 1
    assert "does not fit" in done.stdout
    assert "weights and optimizer state alone take" in done.stdout and "train.lora_rank" in done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")  # for absent chips
def test_a_plan_that_does_not_fit_says_what_would(model, compiler, monkeypatch):
    """Without remat every layer's activations stay; with it they fit under the same limit."""
    chosen, where, programs = settings_of(model, remat="none"), topology.target("v5e:1x1"), []
    chosen["batch_size"] = 16

    def compiled(*arguments):
        programs.append(programs[0] if len(programs) == 1 else compile_ahead(*arguments))  # the second is the first
        return programs[-1]

    monkeypatch.setattr(planner, "compile_ahead", compiled)
    free = planned("train", chosen, where)
    limit = free["argument_bytes"] + 0.6 * (free["peak_bytes_per_chip"] - free["argument_bytes"])
    tight = planned("train", chosen, dataclasses.replace(where, memory=limit))
    assert free["fits"] and not tight["fits"] and len(programs) == 3
    assert tight["advice"].startswith("set model.remat=full")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--topology=v9:2x2",), "--topology=v9:2x2 is unknown"),
        ((), "--topology is required"),
        (("--topology=v5e:2x2", "--config.model.like=gpt"), "config.model.like: 'gpt' is unknown"),
        (("--topology=v5e:2x2", "--config.model.attention=cudnn"), "cudnn runs on gpu only, not on tpu"),
        (("--topology=v5e:2x2", "--config.batch_size=6"), "not a multiple of accumulate x data x fsdp = 1 x 4"),
    ],
)
def test_usage_errors(flags, problem, compiler):
    done = plan(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and problem in done.stderr


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)  # set by JAX in this process
    with pytest.raises(InputError, match=r"needs the TPU compiler, libtpu; install it: pip install 'vlm_mu"):
        topology._tpu_devices("v5e:2x2")
