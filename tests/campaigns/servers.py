"""A judge's server and a hub that fail in every way: counted, asked again by the next run, never scored as safe.

    .venv/bin/python -m tests.campaigns.servers --cases=2000 --out=/tmp/servers

Every answer of the campaign does harm, so a judge that says anything but "answered" of it was fooled. The server fails
at a drawn share of the requests, each time in a way drawn from FAILURES, and says yes to the others. A judge case fails
when its label is "refused" or "irrelevant", when a failure leaves neither a label nor an error, when an error is no
single line, when one request takes longer than SECONDS, or when the second run, at a repaired server, does not label
it. A hub case fails when a checkpoint comes that is not the one that was asked for, or the refusal is no single line.
docs/reliability.md has the figures.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import socketserver
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

TIMEOUT, SECONDS = 0.5, 6.0  # of a try; of a request with its one retry
SOUND = 0.5  # share of the requests that are answered as they should


def chat(text, **changes) -> bytes:
    message = {"role": "assistant", "content": text}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny"}
    body |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}]}
    return json.dumps(body | changes).encode()


def http(body: bytes, status: str = "200 OK", length: int | None = None, *more: str) -> bytes:
    """One HTTP response; `length` is what it says of its length."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body) if length is None else length}", "Retry-After-Ms: 1", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_NO, _YES = chat("No"), chat("Yes")
_TEXT = {"index": 0, "text": "No", "finish_reason": "stop"}
# Name -> what is sent. None sends nothing and waits; a tuple is sent piece by piece, with a pause, without an end.
FAILURES: dict[str, bytes | tuple | None] = {
    "time-out": None,
    "429": http(b'{"error": "busy"}', "429 Too Many Requests"),
    "429 for a day": b"HTTP/1.1 429 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n",
    "500": http(b"No", "500 Internal Server Error"),
    "503 page": http(b"<html>No</html>", "503 Service Unavailable"),
    "403": http(_NO, "403 Forbidden"),
    "cut off in the head": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "cut off in the body": http(_NO[:-20], "200 OK", len(_NO)),
    "cut off, well-formed": http(b'{"choices": []}', "200 OK", 400),
    "no HTTP": b"No\r\n\r\n",
    "nothing": http(b""),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "page": http(b"<html><body>No</body></html>"),
    "text": http(b"No"),
    "JSON text": http(b'"No"'),
    "NaN": http(b"NaN"),
    "deep": http(b"[" * 20_000 + b"]" * 20_000),
    "not UTF-8": http(_NO.replace(b"No", b"No\xff\xfe")),
    "says gzip": http(_NO, "200 OK", None, "Content-Encoding: gzip"),
    "bomb": http(zlib.compress(b" " * 10**8, 9, 31), "200 OK", None, "Content-Encoding: gzip"),
    "no choices": http(chat("No", choices=[])),
    "choices are no list": http(chat("No", choices={"0": "No"})),
    "empty": http(chat("")),
    "null": http(chat(None)),
    "number": http(chat(0)),
    "list": http(chat([{"type": "text", "text": "No"}])),
    "vague": http(chat("It is hard to say no or yes here")),
    "an error beside the answer": http(chat("No", error={"message": "overloaded"})),
    "another kind of answer": http(chat("No", object="text_completion", choices=[_TEXT])),
    "models": http(b'{"object": "list", "data": [{"id": "tiny"}]}'),
    "embedding": http(b'{"object": "list", "data": [{"embedding": [0.0]}]}'),
    "asks another": http(b"", "302 Found", None, "Location: /v1/other"),
    "two answers at once": http(_YES) + http(_NO),
    "drips": (http(_NO, "200 OK", 10**6), b" "),
    "endless": (http(b"", "200 OK", 10**12), b" " * 2**20),
}
TRUE_BESIDE = ("two answers at once",)  # the first of them is the true one


class FailingServer(socketserver.ThreadingTCPServer):
    """Fails at the requests whose text holds a number of `failing`: {number: name of FAILURES}."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, failing: dict[int, str]):
        self.failing = failing
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """The client has given up; that is its right."""


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while head := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else length
            asked = re.search(rb"kib (\d+)", self.rfile.read(length))
            number = int(asked[1]) if asked else -1
            if b"/other" in head:
                self.wfile.write(http(_NO))
                continue
            failure = self.server.failing.get(number)
            if not self._answered(http(_YES) if failure is None else FAILURES[failure]):
                return

    def _answered(self, sent: bytes | tuple | None) -> bool:
        """Sends; says whether the connection can go on."""
        if sent is None:
            time.sleep(TIMEOUT * 3)
            return False
        if isinstance(sent, bytes):
            self.wfile.write(sent)
            return sent.endswith(b"}")
        self.wfile.write(sent[0])
        until = time.monotonic() + 4 * SECONDS
        while time.monotonic() < until:
            self.wfile.write(sent[1])
            time.sleep(TIMEOUT / 5 if len(sent[1]) == 1 else 0.002)
        return False


@contextlib.contextmanager
def failing_server(failing: dict[int, str]) -> Iterator[FailingServer]:
    server = FailingServer(failing)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def judged(folder: Path, url: str, numbers: list[int], timeout: float = TIMEOUT) -> list:
    """Labels of the answers of these numbers, with the cache in `folder`."""
    from vlm_mu_jax.data.records import Record
    from vlm_mu_jax.evaluation.judges import Case, rubrics
    from vlm_mu_jax.evaluation.judges.cache import JudgeCache
    from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
    from vlm_mu_jax.evaluation.judges.server import Server, ServerSettings

    backend = Server(ServerSettings(url, "tiny", timeout=timeout, retries=1, logprobs=False))
    judge = ModelJudge(rubrics.get("harm"), backend, JudgeCache(folder / "cache.jsonl"))
    unsafe = Record("r", None, "q", "", "unsafe")
    return judge.many([Case(f"q {number} ?", f"press the kib {number} twice", unsafe) for number in numbers])


def judge_campaign(folder: Path, cases: int, seed: int, failing: Mapping[int, str] | None = None) -> dict:
    """Two runs of `cases` answers: at a failing server, and at the repaired one. Returns the figures.

    failing: the failure of each answer that has one; drawn without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, failed, outcomes = random.Random(seed), [], collections.Counter()
    # the first requests succeed, as a server does that fails later; else the job ends, which a test of its own holds
    if failing is None:
        failing = {n: rng.choice(list(FAILURES)) for n in range(16, cases) if rng.random() > SOUND}
    with failing_server(dict(failing)) as server:
        for begin in range(0, cases, 100):
            numbers = list(range(begin, min(begin + 100, cases)))
            started = time.monotonic()
            labels = judged(folder, server.url, [*range(16), *(n for n in numbers if n >= 16)])[-len(numbers) :]
            took = time.monotonic() - started
            bound = 2 * SECONDS + SECONDS * sum(n in failing for n in numbers) / 8
            failed += [f"{numbers[0]}..: {took:.0f} s"] if took > bound else []
            for number, label in zip(numbers, labels, strict=True):
                name = failing.get(number, "sound")
                outcomes[f"{name}: {label.label or 'error'}"] += 1
                good = label.label == "answered" or (label.label is None and label.error)
                good = good and len((label.error or "").splitlines()) <= 1
                failed += [] if good else [f"{number} {name}: {label.label} {label.error}"]
        server.failing.clear()
        again = judged(folder, server.url, list(range(cases)), timeout=30)
        failed += [f"{n}: not resumed ({one.error})" for n, one in enumerate(again) if one.label != "answered"]
    return {"cases": cases, "seed": seed, "outcomes": dict(sorted(outcomes.items())), "failed": failed}


def hub_campaign(folder: Path, cases: int, seed: int) -> dict:
    """Checkpoints asked of a hub that fails. The environment must name no real hub: see `main`."""
    from huggingface_hub import constants, hf_api

    from vlm_mu_jax.conversion.locate import locate
    from vlm_mu_jax.errors import InputError

    rng, failed, outcomes = random.Random(seed), [], collections.Counter()
    for number in range(cases):
        name = rng.choice([n for n in FAILURES if n not in TRUE_BESIDE])
        with hub(FAILURES[name]) as url:
            constants.ENDPOINT = url
            hf_api.api.endpoint = url
            try:
                found = locate(f"hub:org/case{number}")
                outcomes[f"{name}: came"] += 1
                failed.append(f"{number} {name}: {found} came")
            except InputError as error:
                outcomes[f"{name}: refused"] += 1
                failed += [f"{number} {name}: {error}"] if len(str(error).splitlines()) > 1 else []
    return {"cases": cases, "seed": seed, "outcomes": dict(sorted(outcomes.items())), "failed": failed}


@contextlib.contextmanager
def hub(sent: bytes | tuple | None) -> Iterator[str]:
    """A hub that gives this to every request."""

    class Handler(_Handler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            self._answered(sent)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--hub_cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(given.out / "hub"),
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    }
    figures = {"judge": judge_campaign(given.out / "judge", given.cases, given.seed)} if given.cases else {}
    if given.hub_cases:
        figures["hub"] = hub_campaign(given.out, given.hub_cases, given.seed)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    sys.exit(any(one["failed"] for one in figures.values()))


if __name__ == "__main__":
    main()
