"""A search killed with SIGKILL continues with the question it was at and gives the same scores."""

import json
import signal
import time

from tests.command import Started


def start(root, path, *more):
    return Started(root / "tests/attacks/margin/killed_search.py", path, *more, timeout=300)


def result(process):
    out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def test_killed_and_continued_equals_uninterrupted(root, tmp_path):
    whole = result(start(root, tmp_path / "whole.jsonl"))
    assert whole["ticks"] == 3 * 9  # the unchanged question and eight words
    path = tmp_path / "killed.jsonl"
    victim, until = start(root, path, "0.3"), time.monotonic() + 200
    while not path.exists() or path.read_bytes().count(b"\n") < 2:  # the header and one question
        assert victim.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    done = path.read_bytes().count(b"\n") - 1
    assert done in (1, 2)
    rest = result(start(root, path))
    assert rest == whole | {"ticks": (3 - done) * 9}
