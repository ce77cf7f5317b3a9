"""JAX is told of accelerators that are not there, and users of one that would stay idle."""

import os
from importlib.machinery import ModuleSpec

import pytest

from vlm_mu_jax.parallel import accelerators


@pytest.fixture
def machine(monkeypatch):
    """machine(gpu, *installed): a machine without a TPU, and what is installed there."""

    def make(gpu: bool, *installed: str) -> None:
        def find(name: str) -> ModuleSpec | None:
            return ModuleSpec(name, None) if name in installed else None

        monkeypatch.setattr(accelerators, "find_spec", find)
        monkeypatch.setattr(accelerators, "_gpu", lambda: gpu)
        monkeypatch.setattr(accelerators.Path, "glob", lambda self, pattern: iter(()))

    monkeypatch.setenv("JAX_PLATFORMS", "")  # so that it is put back in any case
    monkeypatch.delenv("JAX_PLATFORMS")
    return make


@pytest.mark.parametrize(
    ("gpu", "installed", "platforms"),
    [
        (False, [], None),
        (False, ["libtpu"], "cpu"),
        (True, ["libtpu"], "cpu"),
        (True, ["libtpu", "jax_cuda13_plugin"], "cuda,cpu"),
    ],
)
def test_a_compiler_for_tpus_without_a_tpu_is_left_out(machine, gpu, installed, platforms):
    machine(gpu, *installed)
    accelerators.leave_out_absent_tpu()
    assert os.environ.get("JAX_PLATFORMS") == platforms


def test_what_the_user_has_chosen_stays(machine, monkeypatch, capsys):
    machine(True, "libtpu")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    accelerators.leave_out_absent_tpu()
    accelerators.tell_of_idle_gpu()
    assert os.environ["JAX_PLATFORMS"] == "tpu" and not capsys.readouterr().err


def test_a_gpu_that_would_stay_idle_is_said(machine, capsys):
    machine(True)
    accelerators.tell_of_idle_gpu()
    assert "pip install 'jax[cuda13]'" in capsys.readouterr().err
    machine(True, "jax_cuda12_plugin")
    accelerators.tell_of_idle_gpu()
    assert not capsys.readouterr().err
