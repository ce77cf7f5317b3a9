"""The pod story: two processes of four devices each, every step killed once, from a checkpoint to the report."""

import json

import pytest

from tests.command import run_command
from tests.multidevice import pod


@pytest.mark.slow
def test_the_story_of_a_pod_survives_a_kill_in_every_step(tmp_path):
    folder = tmp_path / "world"
    done = run_command("tests.multidevice.pod", folder, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ": killed" in line] == [
        step.name for step in pod.STEPS
    ]
    lines = [json.loads(line) for line in (folder / "pod" / "npo" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    for name in ("eval", "eval_guard"):
        answers = (folder / "pod" / name / "answers" / "unsafe_before.jsonl").read_text().splitlines()
        assert len({json.loads(line)["id"] for line in answers}) == len(answers) > 0
    assert json.loads((folder / "pod" / "npo" / "provenance.json").read_text())["processes"] == 2
    assert "npo" in (folder / "pod" / "report.html").read_text()
