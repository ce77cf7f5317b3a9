"""The story's plan: every step is a command that exists, with flags it knows, reading what was made before it."""

import re
import shlex
from pathlib import Path

import pytest

from vlm_mu_jax.miniature import story
from vlm_mu_jax.reporting.inputs.evidence import EVIDENCE
from vlm_mu_jax.training.config_files import load_config

ROOT = Path(__file__).resolve().parents[2]
STEPS = story.steps(seed=3, holds=True)
ENGLISH = story.steps(seed=3, world="english", build=" --gguf=x.gguf", holds=True)


@pytest.mark.parametrize("step", STEPS + ENGLISH, ids=lambda step: step.made)
def test_a_step_is_a_command_with_known_flags(step):
    name, *arguments = shlex.split(step.command)
    assert (ROOT / "bin" / name).exists()
    source = "".join(file.read_text() for file in (ROOT / "vlm_mu_jax" / "cli").glob(f"{name}*.py"))
    source += (ROOT / "vlm_mu_jax" / "cli" / "config_flag.py").read_text() if "config_flag" in source else ""
    known = set(re.findall(r'(?:DEFINE_\w+\(\s*"|shared_flags\.)(\w+)', source)) | (
        set(EVIDENCE) if name == "report" else set()
    )
    given = {a.split("=")[0].lstrip("-").split(".")[0] for a in arguments if a.startswith("--")}
    assert given <= known


READS = ("checkpoint", "source", "baseline", "guard", "attack_words", "config.model.init", "reference", "data")
READS += ("attack", "attack_rebalanced", "attack_again", "audit", "guard_diagnostics", "training", "export", "holds")


@pytest.mark.parametrize("steps", [STEPS, ENGLISH], ids=["nonsense", "english"])
def test_what_a_step_reads_an_earlier_one_made(steps):
    made: set[str] = set()
    for step in steps:
        reads = (*READS, "saliency") if step.command.startswith("report ") else READS  # elsewhere it is a number
        for flag, value in re.findall(r"--([\w.]+)=(\S+)", step.command):
            if flag in reads:
                assert value.split("=")[-1].split("/")[0] in made, (step.command, flag)
        made.add(step.made.split("/")[0])


@pytest.mark.parametrize("steps", [STEPS, ENGLISH], ids=["nonsense", "english"])
def test_the_report_shows_what_the_steps_made(steps):
    for step in steps[:-1]:
        made = step.made.split("/")[0]
        only_for_others = ("base", "sft_rebalanced", "attack_sft_rebalanced.json", "guard_raw")
        only_for_others += ("forget", "forget_balanced")
        assert made in steps[-1].command or made in only_for_others


def test_the_english_world_has_the_same_story_and_a_balanced_forget_set_with_configs_of_its_own():
    made = [step.made for step in ENGLISH]
    balanced = ["forget_balanced/results.json", "rmu_balanced/model", "eval_rmu_balanced/results.json"]
    own = [*balanced, "attack_rmu_balanced.json"]  # the one question that this world alone asks
    assert [name for name in made if name not in own] == [step.made for step in STEPS]
    assert [name for name in made if name in own] == own
    trained = [step.command for step in ENGLISH if step.command.startswith("train ")]
    for config in {re.search(r"--config=(\S+)", command)[1] for command in trained}:
        assert config.startswith("english_")
        load_config(config)


def test_the_seed_reaches_every_step_that_draws():
    for step in STEPS + ENGLISH:
        if shlex.split(step.command)[0] in ("miniature", "attack", "train", "audit"):
            assert "seed=3" in step.command
