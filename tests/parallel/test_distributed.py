"""Joining a job: what cannot be joined says why. That joined processes agree is shown in tests/multidevice."""

import os
import random
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.parallel import distributed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "need --coordinator"),
        (("localhost:1", None, None), "also needs --num_processes"),
        (("localhost:1", 2, 2), r"must be 0\.\.1"),
        (("localhost", 2, 1), "no HOST:PORT"),
        (("auto", 2, None), "leave them out"),
    ],
)
def test_flags_that_do_not_fit(given, message):
    with pytest.raises(InputError, match=message):
        distributed.join(*given)


def test_auto_outside_of_a_cluster():
    """In a process of its own: JAX must not have touched a device before."""
    program = "from vlm_mu_jax.parallel import distributed; distributed.join('auto')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode and "InputError: --coordinator=auto: no cluster that JAX knows" in done.stderr


def test_a_task_among_several_must_not_believe_to_be_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(InputError, match="one of 4 SLURM tasks"):
        distributed.join(None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    distributed.join(None)


def test_a_taken_port_and_an_absent_coordinator(monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 0.0)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is taken"):
            distributed.join(f"localhost:{port}", 2, 0)
    with pytest.raises(JobError, match="is process 0 running there"):
        distributed.join(f"localhost:{port}", 2, 1)


def test_alone_everything_is_as_it_was():
    values = np.arange(3.0)
    assert distributed.first() and distributed.from_first({"a": [1]}) == {"a": [1]}
    np.testing.assert_array_equal(distributed.maximum(values), values)
    np.testing.assert_array_equal(distributed.to_host(jnp.arange(3.0)), values)


TASK = """
import jax, numpy as np
from vlm_mu_jax.parallel import distributed
distributed.join("auto")
mine = np.zeros(jax.process_count()); mine[jax.process_index()] = 7 + jax.process_index()
print(distributed.first(), distributed.from_first([jax.process_index(), 0.1]), distributed.maximum(mine).tolist())
"""


def test_slurm_tasks_find_each_other(root):
    """The variables that srun sets, on one machine."""
    job = random.randrange(4096)  # JAX derives the port from it
    slurm = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NUM_NODES": 1,
        "SLURM_STEP_NUM_TASKS": 2,
        "PYTHONPATH": root,
        "JAX_PLATFORMS": "cpu",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", TASK],
            text=True,
            stdout=subprocess.PIPE,
            env=os.environ | {name: str(v) for name, v in (slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i}).items()},
        )
        for i in range(2)
    ]
    said = [task.communicate(timeout=120)[0].splitlines()[-1] for task in tasks]
    assert said == ["True [0, 0.1] [7.0, 8.0]", "False [0, 0.1] [7.0, 8.0]"]
