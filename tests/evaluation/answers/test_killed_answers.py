"""kill -9 while questions are answered loses no answer that was written, and asks none of them again."""

import signal
import time

from tests.command import ROOT, Started
from tests.evaluation.answers.killed_answers import QUESTIONS
from vlm_mu_jax.evaluation.answers import answers_file

SCRIPT = ROOT / "tests" / "evaluation" / "answers" / "killed_answers.py"


def start(path, pause):
    return Started(SCRIPT, path, pause, timeout=300)


def batches_asked(process):
    out, _ = process.communicate()
    assert process.returncode == 0
    return int(out.splitlines()[-1])


def test_killed_and_continued_equals_uninterrupted(tmp_path):
    path, until = tmp_path / "killed.jsonl", time.monotonic() + 200
    victim = start(path, 0.3)
    while not path.exists() or path.read_bytes().count(b"\n") < 4:  # two batches of two
        assert victim.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    kept = answers_file.read(path)
    assert 4 <= len(kept) < len(QUESTIONS)
    with path.open("ab") as file:
        file.write(b'{"id": "q1')  # as a kill in the middle of a write leaves it
    rest, whole = start(path, 0), start(tmp_path / "whole.jsonl", 0)
    assert batches_asked(rest) == (len(QUESTIONS) - len(kept)) // 2 and batches_asked(whole) == len(QUESTIONS) // 2
    answers = answers_file.read(path)
    assert answers[: len(kept)] == kept
    assert len(answers) == len(path.read_text().splitlines()) == len(QUESTIONS)
    assert sorted(answers, key=str) == sorted(answers_file.read(tmp_path / "whole.jsonl"), key=str)
