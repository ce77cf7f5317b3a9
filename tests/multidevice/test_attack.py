"""A search gives the same scores on one device, with questions spread over devices, and with candidates spread."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest


def on_devices(root, count, *sizes):
    flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(root / "tests/multidevice/attack_on_devices.py"), *map(str, sizes)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one(root):
    return on_devices(root, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("sizes", "groups"), [((1, 1, 1), 8), ((8, 1, 1), 1), ((2, 2, 1), 2)], ids=["questions", "candidates", "both"]
)
def test_eight_devices_equal_one(root, one, sizes, groups):
    many = on_devices(root, 8, *sizes)
    assert many["groups"] == groups
    for position, margins in one["margins"].items():
        np.testing.assert_allclose(many["margins"][position], margins, atol=1e-4)
        assert many["best"][position] == one["best"][position]
