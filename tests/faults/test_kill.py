"""kill -9 at any moment costs at most the steps since the last checkpoint, and the curve stays the same to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

from tests.conftest import ROOT
from tests.faults.long_run import STEPS

SCRIPT = ROOT / "tests" / "faults" / "long_run.py"


@pytest.fixture
def server(tmp_path):
    """The process that forks one for every run."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
    }
    command = [sys.executable, str(SCRIPT)]
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        yield process
        process.stdin.close()


def said(server, what):
    """The number in the server's next line, which begins with `what`."""
    word, number = server.stdout.readline().split()
    assert word == what
    return int(number)


def start(server, workdir):
    """The id of a process that runs there."""
    server.stdin.write(f"{workdir}\n")
    return said(server, "process")


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [(line["loss"], line["gradient_norm"], line["learning_rate"]) for line in lines]


def complete(workdir):
    """The newest step whose checkpoint has its final name; 0 without one."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def writing(workdir):
    return any("tmp" in path.name for path in (workdir / "checkpoints").iterdir())


def killed(server, workdir, condition, delay):
    """Kills a run `delay` seconds after `condition` holds; returns (first step of the run, newest checkpoint)."""
    process, first = start(server, workdir), said(server, "from")
    while not condition(workdir):
        assert not ended(process), "it ended before it was killed"
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    assert said(server, "ended") == -signal.SIGKILL, "it ended before it was killed"
    return first, complete(workdir)


def ended(process):
    """Whether there is no such process any more: the server asks for its exit code at once."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def whole(server, workdir):
    """Lets a run end; returns its first step."""
    start(server, workdir)
    first = said(server, "from")
    assert said(server, "ended") == 0
    return first


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_the_one_that_was_not(server, tmp_path):
    assert whole(server, tmp_path / "whole") == 0
    expected, work, saved, draw = losses(tmp_path / "whole"), tmp_path / "work", 0, random.Random(0)
    for condition, delay in (
        (writing, 0.0),  # in the middle of the first checkpoint
        (lambda work: complete(work) >= 12, draw.uniform(0, 0.1)),
        (writing, draw.uniform(0, 0.02)),
        (lambda work: complete(work) >= 30, draw.uniform(0, 0.1)),
        (writing, draw.uniform(0, 0.02)),
    ):
        first, now = killed(server, work, condition, delay)
        assert first == saved, "steps before the last checkpoint were lost"
        saved = now
    assert 30 <= saved < STEPS
    assert whole(server, work) == saved
    assert losses(work) == expected
    assert not writing(work), "half-written checkpoints were left behind"
