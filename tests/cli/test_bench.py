"""bin/bench: the suites that exist are offered, and the table shows every column."""

import subprocess
import sys

import pytest

from tests.cli.bench_result import environment
from vlm_mu_jax.cli import bench_jobs


def bench(*arguments):
    command = [sys.executable, "-m", "vlm_mu_jax.cli.bench", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def test_an_unknown_suite_is_answered_with_those_that_exist():
    done = bench("dreams")
    assert done.returncode == 2 and "generate, unlearn" in done.stderr and done.stderr.count("\n") == 1


def test_the_table_shows_further_columns_and_memory_in_gib():
    code = (
        "from vlm_mu_jax.cli import bench, bench_jobs\n"
        "rows = [bench_jobs.row('a', 4.0, 2.0, 'tokens/s', memory_ours=3 << 30), bench_jobs.row('b', 1.0, None, 'x')]\n"
        "print(bench.table({'suite': 's', 'device': 'd', 'rows': rows}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    head, names, first, second = done.stdout.splitlines()
    assert head == "s on d" and names.split() == "name ours peer unit ratio floor memory_ours".split()
    assert first.split() == "a 4 2 tokens/s 2 - 3.00 GiB".split()
    assert second.split() == "b 1 - x - - -".split()


def test_sides_that_disagree_are_not_compared():
    from vlm_mu_jax.errors import JobError

    sides = (lambda: (1.0, 0.1)), (lambda: (2.0, 0.2))
    with pytest.raises(JobError, match="did not compute the same"):
        bench_jobs.compare("x", *sides, count=1, unit="x/s", agrees=lambda a, b: a == b, repeats=1)
    row = bench_jobs.compare("x", *sides, count=6, unit="x/s", agrees=lambda a, b: a < b, repeats=3)
    assert row["ours"] == pytest.approx(60) and row["peer"] == pytest.approx(30) and row["ratio"] == pytest.approx(2)
