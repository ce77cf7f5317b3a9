"""Of a job of three processes one is killed, or fails: the others say so in one line and leave."""

import subprocess
import sys

import pytest

from tests.multidevice.start import environment, free_address

# Run as `bin/dies HOW ADDRESS PROCESSES PROCESS`; its last process is killed, or fails, while the others compute.
COMMAND = """
import os, sys, time
from vlm_mu_jax.cli import command
from vlm_mu_jax.errors import JobError
from vlm_mu_jax.parallel import distributed, meeting

meeting.SIGN_SECONDS, meeting.GONE_SECONDS = 0.5, 4.0
how, address, *job = sys.argv[1:]
sys.argv[1:] = []


def main(argv):
    distributed.join(address, *map(int, job))
    meeting.watch()
    meeting.meet("start")
    if distributed.index() == 2 and how == "killed":
        os.kill(os.getpid(), 9)
    if distributed.index() == 2:
        raise JobError("the disk is full")
    time.sleep(60)


command.run(main, "Dies.")
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("killed", -9, "error: process 2 is gone: no sign of life for "),
        ("fails", 1, "error: process 2 has failed: the"),
    ],
)
def test_a_process_that_ends_is_named_in_one_line_and_the_others_leave(how, code, said):
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, how, address, "3", str(process)],
            env=environment(1),
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
    assert [process.returncode for process in started] == [1, 1, code], lines
    for one in lines[:2]:
        assert len(one) == 1 and one[0].startswith(said), one
