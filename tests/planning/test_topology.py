"""Targets of a compilation ahead of time."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.parallel.chips import CHIPS
from vlm_mu_jax.planning import topology

NEEDS_COMPILER = "needs the TPU compiler: pip install 'vlm_mu_jax[tpu]'"


@pytest.mark.parametrize("name", ["v5e", "v5e:8", "v99:2x2", "gpu:8xABC", "gpu:H100", "cpu:8", ""])
def test_unknown_topologies_are_named_with_what_is_known(name):
    with pytest.raises(InputError, match=f"--topology={name} is unknown; write TYPE:SHAPE .*v5e:8x8.*gpu:8xH100"):
        topology.target(name)


def test_gpus_come_in_numbers_that_a_tpu_slice_has():
    with pytest.raises(InputError, match="GPUs are planned for in 1, 2, 4, 8, 16, 32, 64, not 3"):
        topology.target("gpu:3xH100")


def test_without_the_compiler_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match=r"libtpu; install it: pip install 'vlm_mu_jax\[tpu\]'"):
        topology.target("v5e:2x2")


def test_a_slice_of_chips():
    pytest.importorskip("libtpu", reason=NEEDS_COMPILER)
    found = topology.target("v5e:4x4", hbm_gib=10)
    assert (len(found.devices), found.chip, found.memory) == (16, CHIPS["v5e"], 10 * 2**30)
    assert found.compiled_for is None and found.devices[0].platform == "tpu"
    assert len(topology.target("v5e:1x1").devices) == 1  # less than one host
    with pytest.raises(InputError, match="v5e:3x5: the TPU compiler does not know this topology"):
        topology.target("v5e:3x5")


def test_gpus_have_a_stand_in():
    pytest.importorskip("libtpu", reason=NEEDS_COMPILER)
    found = topology.target("gpu:8xH100")
    assert found.compiled_for == "8 x TPU v5p" and len(found.devices) == 8
    assert found.memory == CHIPS["H100"].memory
