"""bin/bench plan: rows of plans that nobody ran."""

import importlib.util

import pytest

from tests.benchmark.tiny import tiny_rows
from tests.conftest import ROOT


@pytest.mark.slow
def test_rows():
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'vlm_mu_jax[tpu]'")
    (row,) = tiny_rows("plan").values()
    assert row["fits"] and row["compiled"] and row["peer"] is None
    assert 0 < row["floor"] <= row["ours"]
    assert row["mfu"] == pytest.approx(row["floor"] / row["ours"])
    assert 0 < row["memory_peak"] < row["memory_chip"]


def test_every_shipped_config_of_a_full_size_model_is_in_the_table():
    from vlm_mu_jax.benchmark.suites.plans import PLANS

    spec = importlib.util.spec_from_file_location("llava15_unlearn", ROOT / "configs" / "llava15_unlearn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(PLANS) == set(module.VARIANTS)


def test_planned_batches_divide_on_their_topologies():
    """A row per chip and micro-batch at least; found here in a second instead of after a compilation."""
    from vlm_mu_jax.benchmark.suites.plans import PLANS, _settings

    assert importlib.util.find_spec("vlm_mu_jax.benchmark.suites.plans")
    for variant, topologies in PLANS.items():
        for topology, changes in topologies:
            chosen = _settings(variant, changes)
            kind, _, shape = topology.partition(":")
            chips = int(shape.split("x")[0]) if kind == "gpu" else 1
            if kind != "gpu":
                for size in shape.split("x"):
                    chips *= int(size)
            assert chosen["batch_size"] % (chosen["accumulate"] * chips) == 0, (variant, topology)
