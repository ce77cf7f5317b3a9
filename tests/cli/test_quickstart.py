"""The quickstart's plan: every step is a command that exists, with flags it knows, reading what was made before it."""

import re
import shlex
from pathlib import Path

import pytest

from vlm_mu_jax.cli import story

ROOT = Path(__file__).resolve().parents[2]
STEPS = story.steps(seed=3)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.made)
def test_a_step_is_a_command_with_known_flags(step):
    name, *arguments = shlex.split(step.command)
    assert (ROOT / "bin" / name).exists()
    source = "".join(file.read_text() for file in (ROOT / "vlm_mu_jax" / "cli").glob(f"{name}*.py"))
    known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
    given = {a.split("=")[0].lstrip("-").split(".")[0] for a in arguments if a.startswith("--")}
    assert given <= known


def test_what_a_step_reads_an_earlier_one_made():
    made: set[str] = set()
    for step in STEPS:
        options = dict(re.findall(r"--([\w.]+)=(\S+)", step.command))
        for flag in ("checkpoint", "source", "baseline", "guard", "attack_words", "config.model.init", "reference"):
            if flag in options:
                assert options[flag].split("/")[0] in made, (step.command, flag)
        made.add(step.made.split("/")[0])


def test_the_seed_reaches_every_step_that_draws():
    for step in STEPS:
        if shlex.split(step.command)[0] in ("miniature", "attack", "train"):
            assert "seed=3" in step.command
