"""Many clients of one server for a minute, by hand: slow readers, clients that leave, wrong bodies and images.

    .venv/bin/python -m tests.campaigns.serve --checkpoint=runs/mini/model --clients=200 --seconds=60

Starts `bin/serve` in a process of its own. Every client sends one request after the other, of a kind drawn anew. The
campaign fails when an answer differs from the one that the server gave to the same question alone, when a request gets
another status than it should, when the server prints anything while it runs, or when rows stay taken at the end. It
prints what came of the requests, the tokens a second and the server's memory every ten seconds.
"""

import argparse
import asyncio
import base64
import collections
import dataclasses
import io
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ("what is this ?", "tell me about it .", "is it red ?", "why is it so ?", "where is the other one ?")
LENGTHS = (1, 8, 24, 60)
BAD = (
    b"{",
    b"[]",
    b'{"model": "x"}',
    b'{"model": "NAME", "messages": []}',
    b'{"model": "NAME", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
    b'"data:image/png;base64,iVBORw0KGgo="}}]}]}',
    b'{"model": "NAME", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
    b'"file:///etc/passwd"}}]}]}',
)


@dataclasses.dataclass
class Campaign:
    port: int
    model: str
    images: list[str]
    pid: int
    came: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    alone: dict = dataclasses.field(default_factory=dict)
    tokens: int = 0

    def body(self, question: str, image: int | None, longest: int, **options) -> bytes:
        content = [{"type": "text", "text": question}]
        if image is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": self.images[image]}})
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": longest}
        return json.dumps(asked | options).encode()

    async def post(self, body: bytes, limit: int = 2**16):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return reader, writer

    async def whole(self, body: bytes) -> tuple[int, dict]:
        reader, writer = await self.post(body)
        raw = await reader.read()
        writer.close()
        head, _, content = raw.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(content)

    async def ask_alone(self) -> None:
        for question in QUESTIONS:
            for image in [None, *range(len(self.images))]:
                status, answer = await self.whole(self.body(question, image, max(LENGTHS), logprobs=True))
                assert status == 200, answer
                self.alone[question, image] = answer["choices"][0]

    async def client(self, number: int, end: float) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            kind = draw.choices(("whole", "stream", "slow", "leave", "bad"), (4, 4, 1, 2, 1))[0]
            try:
                async with asyncio.timeout(180):
                    outcome = await getattr(self, "whole_kind" if kind == "whole" else kind)(draw)
            except Exception as error:
                self.wrong.append(f"{kind}: {type(error).__name__} {error}")
                outcome = "error"
            self.came[f"{kind}: {outcome}"] += 1
            if outcome == "429":
                await asyncio.sleep(draw.random())

    def drawn(self, draw: random.Random):
        image = draw.choice([None, *range(len(self.images))])
        return draw.choice(QUESTIONS), image, draw.choice(LENGTHS)

    def check(self, question: str, image: int | None, longest: int, text: str, kind: str) -> str:
        alone = self.alone[question, image]
        pieces = [one["token"] for one in alone["logprobs"]["content"]]
        want = alone["message"]["content"] if longest >= len(pieces) else "".join(pieces[:longest]).strip()
        if text != want:
            self.wrong.append(f"{kind} {question!r} image {image} {longest} tokens: {text!r} is not {want!r}")
            return "wrong"
        return "right"

    async def whole_kind(self, draw: random.Random) -> str:
        asked = self.drawn(draw)
        status, answer = await self.whole(self.body(*asked))
        if status != 200:
            return str(status)
        self.tokens += answer["usage"]["completion_tokens"]
        return self.check(*asked, answer["choices"][0]["message"]["content"], "whole")

    async def stream(self, draw: random.Random, pause: float = 0.0, leave: bool = False) -> str:
        asked = self.drawn(draw)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        reader, writer = await self.post(self.body(*asked, **options), limit=2**10 if pause else 2**16)
        text, ended, number = "", False, 0
        try:
            status = int((await reader.readline()).split()[1])
            if status != 200:
                return str(status)
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                number += 1
                if leave and number > draw.randrange(1, 6):
                    return "left"
                if pause:
                    await asyncio.sleep(pause)
                if line.strip() == b"data: [DONE]":
                    ended = True
                    break
                chunk = json.loads(line[6:])
                self.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
        finally:
            writer.close()
        if not ended:
            self.wrong.append(f"a stream broke off after {text!r}")
            return "broken"
        return self.check(*asked, text, "stream")

    async def slow(self, draw: random.Random) -> str:
        return await self.stream(draw, pause=0.2)

    async def leave(self, draw: random.Random) -> str:
        if draw.random() < 0.5:
            return await self.stream(draw, leave=True)
        _, writer = await self.post(self.body(*self.drawn(draw)))
        await asyncio.sleep(draw.random() * 0.3)
        writer.close()
        return "left"

    async def bad(self, draw: random.Random) -> str:
        status, answer = await self.whole(draw.choice(BAD).replace(b"NAME", self.model.encode()))
        if status not in (400, 404, 429) or "Traceback" in str(answer) or "message" not in answer["error"]:
            self.wrong.append(f"a bad body got {status} {answer}")
        return str(status)

    def memory_mb(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024

    async def watch(self, begin: float, end: float) -> None:
        while time.monotonic() < end:
            files = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
            print(f"{time.monotonic() - begin:5.0f} s  {self.memory_mb()} MB  {files} files  {self.tokens} tokens")
            await asyncio.sleep(10)

    async def run(self, clients: int, seconds: float) -> bool:
        await self.ask_alone()
        begin = time.monotonic()
        end = begin + seconds
        await asyncio.gather(self.watch(begin, end), *(self.client(i, end) for i in range(clients)))
        took = time.monotonic() - begin
        for what, count in sorted(self.came.items()):
            print(f"  {count:6d}  {what}")
        print(f"{self.tokens / took:.0f} tokens/s over {took:.0f} s, {self.memory_mb()} MB at the end")
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        lines = (await reader.read()).decode().splitlines()
        taken = [line for line in lines if line.startswith(("vlm_mu_rows_running{", "vlm_mu_answers_waiting{"))]
        print(*taken, sep="\n")
        print(*self.wrong[:20], f"{len(self.wrong)} things went wrong", sep="\n")
        return not self.wrong and all(line.endswith(" 0.0") for line in taken)


def pictures(count: int = 3) -> list[str]:
    found = []
    for seed in range(count):
        raw = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(raw, "PNG")
        found.append("data:image/png;base64," + base64.b64encode(raw.getvalue()).decode())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rows", type=int, default=16)
    given = parser.parse_args()
    words = [sys.executable, "-m", "vlm_mu_jax.cli.serve", f"--checkpoint=tried={given.checkpoint}", "--port=0"]
    words += [f"--rows={given.rows}"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = next(line for line in server.stdout if line.startswith("serving"))
            port = int(address.rsplit(":", 1)[1].removesuffix("/v1\n"))
            campaign = Campaign(port, "tried", pictures(), server.pid)
            good = asyncio.run(campaign.run(given.clients, given.seconds))
        finally:
            server.terminate()
        printed = server.stderr.read()
    if "Traceback" in printed:
        print(f"the server printed:\n{printed[-3000:]}")
    print("passed" if good and "Traceback" not in printed else "FAILED")
    return 0 if good and "Traceback" not in printed else 1


if __name__ == "__main__":
    sys.exit(main())
