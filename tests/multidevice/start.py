"""Starts training_on_devices.py, in one process or several, and reads what it wrote."""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from tests.conftest import ROOT

SCRIPT = ROOT / "tests" / "multidevice" / "training_on_devices.py"


def environment(devices):
    """That of a process with fake devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_address():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def run_together(command, processes, devices, timeout=900):
    """Runs the command once per process, with ADDRESS PROCESSES PROCESS behind it; all must end with 0."""
    address = free_address()
    started = [
        subprocess.Popen(
            [*command, *([address, str(processes), str(i)] if processes > 1 else [])],
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert not any(codes), f"exit codes {codes}: " + "\n---\n".join(output[-3000:] for output in outputs)


def train_on(folder, *jobs, processes=1, devices=1):
    """Results of the trainings, None for one that was stopped, and the images each process opened in each."""
    out = folder / f"{processes}_{len(list(folder.iterdir()))}"
    run_together([sys.executable, str(SCRIPT), json.dumps(jobs, default=str), str(out)], processes, devices)
    files = [out.with_name(f"{out.name}_{i}.npz") for i in range(len(jobs))]
    opened = [json.loads(out.with_name(f"{out.name}_opened_{p}.json").read_text()) for p in range(processes)]
    return [dict(np.load(file)) if file.exists() else None for file in files], opened


def job(objective, *mesh, steps, **options):
    """What `training_on_devices.trained` is to do."""
    return {"objective": objective, "mesh": mesh, "steps": steps, **options}


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
