"""One, two and eight devices give the same losses, gradients and weights; a run moves between meshes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def on_devices(root, name, data, fsdp, tensor, workdir=None, steps=4):
    command = [sys.executable, str(root / "tests/multidevice/training_on_devices.py")]
    command += [name, *map(str, (data, fsdp, tensor, steps)), *([str(workdir)] if workdir else [])]
    env = {**os.environ, "XLA_FLAGS": FLAGS, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


def assert_same(one, other):
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=2e-5)
    np.testing.assert_allclose(one["norm"], other["norm"], rtol=2e-4)
    for path, total in one["sums"].items():
        np.testing.assert_allclose(total, other["sums"][path], rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", ["npo", "rmu"])
def test_eight_devices_equal_one(root, name):
    one = on_devices(root, name, 1, 1, 1)
    eight = on_devices(root, name, 2, 2, 2)
    assert one["devices"] == [1] and eight["devices"] == [8]
    assert_same(one, eight)


def test_saved_on_eight_restored_on_two(root, tmp_path):
    whole = on_devices(root, "sft", 8, 1, 1)
    assert on_devices(root, "sft", 1, 8, 1, tmp_path, steps=3) is None  # killed after three of four steps
    rest = on_devices(root, "sft", 1, 1, 2, tmp_path)
    assert rest["steps"] == [3, 4] and rest["devices"] == [2]  # the newest checkpoint is that of step 2
    np.testing.assert_allclose(rest["loss"], whole["loss"][2:], rtol=2e-5)
    for path, total in whole["sums"].items():
        np.testing.assert_allclose(total, rest["sums"][path], rtol=1e-4, atol=1e-5, err_msg=path)
