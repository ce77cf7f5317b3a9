"""bin/bench offers the suites that exist."""

from tests.command import run_command


def test_an_unknown_suite_is_answered_with_those_that_exist():
    done = run_command("bench", "dreams")
    assert done.returncode == 2 and "generate, unlearn" in done.stderr and done.stderr.count("\n") == 1
