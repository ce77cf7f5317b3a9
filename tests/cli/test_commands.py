"""Every bin/NAME: quick --help with a worked example, one line and exit code 2 for a flag that does not exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / "vlm_mu_jax" / "cli").glob("*.py")
    if "command.run(" in path.read_text(encoding="utf-8")
    and path.stem not in ("command", "main")  # what runs a command, and what chooses one
)
HEAVY = ("jax", "flax", "optax", "orbax", "transformers", "torch", "matplotlib", "scipy", "numpy")


def python(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_help_is_quick_and_shows_an_example(name):
    """Quick means: nothing heavy is imported on the way (a clock would measure the machine's other work)."""
    done = python("-X", "importtime", "-m", f"vlm_mu_jax.cli.{name}", "--help")
    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)
    assert f"bin/{name}" in done.stdout, "no worked example"
    assert "--debug" in done.stdout
    example = done.stdout.partition("Flags:")[0]
    known = set(re.findall(r"--(?:\[no\])?(\w+)", done.stdout.partition("Flags:")[2]))
    example = re.sub(r"pip install.*", "", example)
    assert set(re.findall(r"--(\w+)", example)) <= known, "the example uses a flag that does not exist"


def test_flags_of_other_subjects_are_named_and_described_on_demand():
    short = python("-m", "vlm_mu_jax.cli.attack", "--help").stdout
    assert "--help=judge describes them" in short and "whose labels the results count" not in short
    for asked in ("--help=judge", "--help=all"):
        assert "whose labels the results count" in python("-m", "vlm_mu_jax.cli.attack", asked).stdout
    of_action = python("-m", "vlm_mu_jax.cli.guard", "extract", "--help").stdout
    assert "what is done along the direction" in of_action and "what is done along" not in short


def test_all_missing_flags_are_told_at_once():
    done = python("-m", "vlm_mu_jax.cli.eval")
    assert done.returncode == 2 and "--checkpoint and --data and --workdir are required" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_is_one_line(name):
    action = {"bench": ["convert"], "guard": ["apply"]}.get(name, [])  # a missing one is named before any flag
    done = python("-m", f"vlm_mu_jax.cli.{name}", *action, "--no_such_flag_anywhere=1")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "no_such_flag_anywhere" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_starter(name):
    starter = ROOT / "bin" / name
    assert os.access(starter, os.X_OK)
    assert f"run_module {name} " in starter.read_text()


def test_every_starter_has_a_command():
    starters = {path.name for path in (ROOT / "bin").iterdir() if not path.name.startswith("_")}
    starters -= {"test", "check_harness"}  # of a checkout alone
    assert starters == set(NAMES)


def test_importing_the_package_loads_nothing_heavy():
    done = python("-c", f"import sys, vlm_mu_jax; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr
