"""Starts training_on_devices.py, in one process or several, and reads what it wrote."""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from tests.conftest import ROOT

SCRIPT = ROOT / "tests" / "multidevice" / "training_on_devices.py"


def environment(devices, cache):
    """Fake devices, little optimisation (it is the numbers that count), and programs shared between the runs."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return {**os.environ, **paths, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_address():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def run_together(command, processes, devices, cache, timeout=300):
    """Runs the command once per process, with ADDRESS PROCESSES PROCESS behind it; all must end with 0."""
    address = free_address()
    started = [
        subprocess.Popen(
            [*command, *([address, str(processes), str(i)] if processes > 1 else [])],
            env=environment(devices, cache), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert not any(codes), f"exit codes {codes}: " + "\n---\n".join(output[-3000:] for output in outputs)


def train_on(folder, objective, *meshes, processes=1, devices=8, **options):
    """Results (one per mesh) of training, and the images each process opened."""
    out = folder / f"{objective}_{processes}_{len(list(folder.iterdir()))}"
    job = {"objective": objective, "meshes": meshes, "out": str(out), **options}
    job = {name: str(value) if name == "workdir" else value for name, value in job.items()}
    run_together([sys.executable, str(SCRIPT), json.dumps(job)], processes, devices, folder / "xla")
    results = [dict(np.load(f"{out}_{i}.npz")) for i in range(len(meshes)) if os.path.exists(f"{out}_{i}.npz")]
    opened = [
        json.loads(open(f"{out}_opened_{p}.json").read())
        for p in range(processes)
        if os.path.exists(f"{out}_opened_{p}.json")
    ]
    return results, opened


def assert_same(one, other):
    """Losses, gradient norms and (by the optimizer of the script) gradients."""
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=2e-5)
    np.testing.assert_allclose(one["gradient_norm"], other["gradient_norm"], rtol=2e-4)
    assert_same_weights(one, other)


def assert_same_weights(one, other):
    paths = [name for name in one if name.startswith("weights/")]
    assert len(paths) > 5
    for path in paths:
        np.testing.assert_allclose(one[path], other[path], rtol=1e-4, atol=1e-6, err_msg=path)
