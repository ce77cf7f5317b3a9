"""bin/serve, killed while it answers: no file changes, no client takes a part for the whole, the next one goes on."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path

from tests.campaigns import forks

COMMAND = "serve --checkpoint=tried=ours --port=0 --rows=2 --context=64"
ASKED = {"model": "tried", "messages": [{"role": "user", "content": "what is this ?"}], "max_tokens": 8}
UP_SECONDS = 240


def started(place: Path) -> tuple[int, int]:
    """(process, port) of a server that is up."""
    (place.parent / "stdout").unlink(missing_ok=True)
    child, until = forks.start(COMMAND, place), time.monotonic() + UP_SECONDS
    while time.monotonic() < until:
        said = (place.parent / "stdout").read_text() if (place.parent / "stdout").exists() else ""
        if found := re.search(r"http://[^ ]*:(\d+)/v1\n", said):
            return child, int(found[1])
        assert not os.waitpid(child, os.WNOHANG)[0], (place.parent / "stderr").read_text()[-500:]
        time.sleep(0.02)
    raise AssertionError("the server does not come up")


def asked(port: int, stream: bool) -> str | None:
    """The answer; None for one that is seen to be incomplete."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = json.dumps({**ASKED, "stream": stream})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        raw = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if not stream:
        return json.loads(raw)["choices"][0]["message"]["content"]
    lines = [line[6:] for line in raw.splitlines() if line.startswith("data: ")]
    if "[DONE]" not in lines:
        return None
    pieces = [choice["delta"].get("content") or "" for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(pieces)


def files(place: Path) -> dict[str, bytes]:
    found = {str(file.relative_to(place)): file for file in place.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in found.items()}


def stopped(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def answer_alone(world: Path, place: Path) -> str:
    """What the server says when nobody kills it."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)
    child, port = started(place)
    try:
        said = asked(port, False)
        assert said is not None and asked(port, True) == said
    finally:
        stopped(child)
    return said


def trial(world: Path, place: Path, said: str, rng: random.Random) -> tuple[float, list[str]]:
    """(seconds after the first question at which the server was killed, faults)."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place)
    before, answers, faults = files(place), [], []
    child, port = started(place)

    def client(stream: bool) -> None:
        while (answer := asked(port, stream)) is not None:
            answers.append(answer)

    threads = [threading.Thread(target=client, args=(stream,)) for stream in (False, True, True)]
    for thread in threads:
        thread.start()
    after = rng.uniform(0, 1)
    time.sleep(after)
    stopped(child)
    for thread in threads:
        thread.join()
    faults += ["a client took another answer for the whole"] if any(answer != said for answer in answers) else []
    faults += ["files changed"] if files(place) != before else []
    child, port = started(place)
    faults += [] if asked(port, False) == said else ["the next server answers another thing"]
    stopped(child)
    return round(after, 3), faults
