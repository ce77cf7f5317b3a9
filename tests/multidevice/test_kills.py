"""Of a job of three processes one is killed, or fails, in the middle of common work, or comes late to the end."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.multidevice.start import environment, free_address

# Run as `bin/dies HOW ADDRESS PROCESSES PROCESS`. HOW: the number of the process that is killed, "fails" or "late".
COMMAND = """
import os, sys, time
from vlm_mu_jax.cli import cluster, command

how, *job = sys.argv[1:]
sys.argv[1:] = [f"--{name}={value}" for name, value in zip(("coordinator", "num_processes", "process_id"), job)]


def main(argv):
    import numpy as np
    from vlm_mu_jax.errors import JobError
    from vlm_mu_jax.parallel import distributed, meeting

    meeting.SIGN_SECONDS, meeting.GONE_SECONDS, distributed.SHUTDOWN_SECONDS = 0.5, 4.0, 2
    cluster.join_from_flags()
    distributed.total(np.ones(2))
    if how == "late":
        cluster.leave_together()
        time.sleep(4 * (distributed.index() == 2))  # JAX would abort all of them
        sys.exit(print("done", file=sys.stderr))
    if how == str(distributed.index()):
        os.kill(os.getpid(), 9)
    if how == "fails" and distributed.index() == 2:
        raise JobError("the disk is full")
    while True:
        distributed.total(np.ones(2))


command.run(main, "Dies.")
"""
GONE = "error: process 2 is gone: no sign of life for "
FIRST = "error: process 0, which coordinates the job, is gone; what is finished is kept: start the job again"


@pytest.mark.parametrize(
    ("how", "codes", "said"),
    [("2", [1, 1, -9], GONE), ("0", [-9, 1, 1], FIRST), ("fails", [1, 1, 1], "error: process 2 has failed: the")]
    + [("late", [0, 0, 0], None)],
)
def test_a_process_that_ends_is_named_in_one_line_and_the_others_leave(how, codes, said):
    address, inherited = free_address(), {**os.environ, **environment(1), "PYTHONPATH": str(ROOT)}
    inherited.pop("TF_CPP_MIN_LOG_LEVEL", None)  # commands say themselves what C++ may say
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, how, address, "3", str(process)],
            env=inherited,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(3)
    ]
    try:
        lines = [process.communicate(timeout=300)[1].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == codes, lines
    for process, one in enumerate(lines):
        if codes[process] == 1 and (how, process) != ("fails", 2):
            assert len(one) == 1 and one[0].startswith(said), one
        elif how == "late":
            assert one == ["done"]
