"""Starts training_on_devices.py, in one process or several, and reads what it wrote."""

import json
import os
import socket

import numpy as np

from tests.command import ROOT, Started

SCRIPT = ROOT / "tests" / "multidevice" / "training_on_devices.py"


def environment(devices):
    """What the environment of a process with fake devices has of its own."""
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}


def free_address():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def run_together(script, *words, processes, devices, timeout=900):
    """Runs the script once per process, with ADDRESS PROCESSES PROCESS behind its words; all must end with 0. Returns
    the stdout of each."""
    address = free_address()
    jobs = [[address, processes, i] if processes > 1 else [] for i in range(processes)]
    return ended([Started(script, *words, *job, env=environment(devices), timeout=timeout) for job in jobs])


def ended(started):
    """The stdout of each process, which must end with 0."""
    try:
        outputs = [process.communicate() for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert not any(codes), f"exit codes {codes}: " + "\n---\n".join("".join(output)[-3000:] for output in outputs)
    return [stdout for stdout, _ in outputs]


def train_on(folder, *jobs, processes=1, devices=1):
    """Results of the trainings, None for one that was stopped, and the images each process opened in each."""
    out = folder / f"{processes}_{len(list(folder.iterdir()))}"
    run_together(SCRIPT, json.dumps(jobs, default=str), out, processes=processes, devices=devices)
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
