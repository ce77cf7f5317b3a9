"""The chip behind a jax device name."""

import pytest

from vlm_mu_jax.parallel.chips import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),  # also the beginning of "TPU v5 lite": the longer name wins there
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
    ],
)
def test_device_kinds(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 2080", "TPU v2"])
def test_unknown_devices_have_no_peak(kind):
    assert chip_of(kind) is None
