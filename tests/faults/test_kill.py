"""kill -9 at any moment costs at most the steps since the last checkpoint, and the curve stays the same to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

STEPS = 60
SCRIPT = ROOT / "tests" / "faults" / "long_run.py"


def start(workdir, cache):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    command = [sys.executable, str(SCRIPT), str(workdir), str(STEPS)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


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


def killed(process, workdir, condition, delay):
    """Kills the process `delay` seconds after `condition` holds; returns (first step of its run, newest checkpoint)."""
    first = int(process.stdout.readline().split()[1])
    while not condition(workdir) and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    process.stdout.close()
    return first, complete(workdir)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_the_one_that_was_not(tmp_path):
    cache = tmp_path / "xla"
    whole = start(tmp_path / "whole", cache)
    assert whole.communicate()[0] == "from 0\n" and whole.returncode == 0
    expected, work, saved, draw = losses(tmp_path / "whole"), tmp_path / "work", 0, random.Random(0)
    for condition, delay in (
        (writing, 0.0),  # in the middle of the first checkpoint
        (lambda work: complete(work) >= 12, draw.uniform(0, 0.1)),
        (writing, draw.uniform(0, 0.02)),
        (lambda work: complete(work) >= 30, draw.uniform(0, 0.1)),
        (writing, draw.uniform(0, 0.02)),
    ):
        first, now = killed(start(work, cache), work, condition, delay)
        assert first == saved, "steps before the last checkpoint were lost"
        saved = now
    assert 30 <= saved < STEPS
    last = start(work, cache)
    assert last.communicate()[0] == f"from {saved}\n" and last.returncode == 0
    assert losses(work) == expected
    assert not writing(work), "half-written checkpoints were left behind"
