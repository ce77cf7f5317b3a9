"""bin/bench offers the suites that exist."""

import subprocess
import sys

from tests.benchmark.tiny import environment


def bench(*arguments):
    command = [sys.executable, "-m", "vlm_mu_jax.cli.bench", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def test_an_unknown_suite_is_answered_with_those_that_exist():
    done = bench("dreams")
    assert done.returncode == 2 and "generate, unlearn" in done.stderr and done.stderr.count("\n") == 1
