"""A judging model behind any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, OpenAI ...), with images.

The `openai` client sends the requests. It tries again with growing pauses (and after Retry-After) on timeouts, lost
connections, 429 and 5xx. This file adds the pace, the count of what was used, and the reading of replies. A request
that fails for good is that answer's error. When nothing at all has worked, the job ends.
"""

import base64
import dataclasses
import io
import math
import mimetypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.judges.rubrics import JudgePrompt, Reply
from vlm_mu_jax.evaluation.judges.verdicts import first_word

_MOST_LOGPROB = 0.01  # 0 and some rounding
GIVE_UP = 10  # failures before any success, after which the server is taken for unusable
# what reading a body of another form than the protocol's raises
_OTHER_FORM = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
_MOST_BYTES = 2**24  # of one reply
_FAILED = ("error", "content_filter")  # finish reasons of a text that the server did not end by itself
_AS_THEY_ARE = ("image/png", "image/jpeg", "image/webp", "image/gif")


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Where the server is and how it is asked.

    url: up to and with /v1. timeout: seconds per try. retries: further tries after the first. concurrency: requests at
    a time. per_minute: most requests in a minute, tries included; None = no limit. logprobs: asks for the probability
    of the answer word, which some servers refuse. images: shows the question's image. prices: dollars per million
    tokens sent and received; None = not known.
    """

    url: str
    model: str
    timeout: float = 60.0
    retries: int = 4
    concurrency: int = 8
    per_minute: float | None = None
    logprobs: bool = True
    images: bool = True
    prices: tuple[float, float] | None = None


class Server:
    """A server as a judge's backend. The key is in $OPENAI_API_KEY; servers without keys need none."""

    def __init__(self, settings: ServerSettings):
        """Raises InputError when the `openai` client is not installed."""
        try:
            import openai
        except ImportError:
            raise InputError(
                "--judge_server needs the openai client; install it (pip install 'vlm_mu_jax[judge]')"
            ) from None
        self._openai, self._settings = openai, settings
        self.name, self.sees_images = settings.model, settings.images
        self.identity = f"{settings.url.rstrip('/')} {settings.model} logprobs={settings.logprobs}"
        self._pace = _Pace(settings.per_minute)
        self._lock = threading.Lock()
        self._used = {"requests": 0, "tries": 0, "failed": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
            default_headers={"Accept-Encoding": "identity"},  # compressed, a small reply could fill the memory
            http_client=_http_client(openai, settings, self._try),
        )

    def cost(self) -> dict:
        """Requests, tries (retries included), failures, tokens and, with known prices, dollars."""
        with self._lock:
            used = dict(self._used)
        if self._settings.prices is not None:
            sent, received = self._settings.prices
            used["dollars"] = (used["prompt_tokens"] * sent + used["completion_tokens"] * received) / 1e6
        return used

    def ask(
        self, prompts: Sequence[JudgePrompt], words: tuple[str, str] | None, max_tokens: int
    ) -> Iterator[tuple[int, Reply]]:
        """See `Backend.ask`. Raises JobError when the first `GIVE_UP` requests all fail."""
        failures = successes = 0
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="judge")
        try:
            waiting = {pool.submit(self._reply, p, words, max_tokens): i for i, p in enumerate(prompts)}
            for done in as_completed(waiting):
                reply = done.result()
                failures, successes = failures + (reply.error is not None), successes + (reply.error is None)
                if not successes and failures >= GIVE_UP:
                    raise JobError(
                        f"--judge_server={self._settings.url}: the first {failures} requests failed ({reply.error});"
                        " check the address, the model's name and $OPENAI_API_KEY"
                    )
                yield waiting[done], reply
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _try(self, request: Any) -> None:
        """Runs before every try, so that retries keep the pace too."""
        if request.method != "POST":  # a redirect that leaves the question behind: the answer would be to another one
            raise ValueError("the server redirects to another request")
        self._pace.wait()
        with self._lock:
            self._used["tries"] += 1

    def _reply(self, prompt: JudgePrompt, words: tuple[str, str] | None, max_tokens: int) -> Reply:
        with self._lock:
            self._used["requests"] += 1
        try:
            reply = self._read(self._send(prompt, words is not None, max_tokens), words, prompt.form == "raw")
        except InputError:  # an image that cannot be read: the user's to mend
            raise
        except self._openai.OpenAIError as error:
            reply = Reply(error=_problem(error))
        except _OTHER_FORM as error:
            reply = Reply(error=f"malformed reply ({type(error).__name__}: {error})"[:200])
        with self._lock:
            self._used["failed"] += reply.error is not None
        return reply

    def _send(self, prompt: JudgePrompt, want_logprobs: bool, max_tokens: int) -> Any:
        common = {"model": self._settings.model, "temperature": 0.0}
        want_logprobs = want_logprobs and self._settings.logprobs
        if prompt.form == "raw":
            more = {"logprobs": 5} if want_logprobs else {}
            return self._client.completions.create(prompt=prompt.text, max_tokens=max_tokens, **common, **more)
        more = {"logprobs": True, "top_logprobs": 20} if want_logprobs else {}
        asked: Any = prompt.question if prompt.form == "guard" else prompt.text
        if prompt.image is not None:
            asked = [
                {"type": "text", "text": asked},
                {"type": "image_url", "image_url": {"url": data_url(prompt.image)}},
            ]
        messages = [{"role": "user", "content": asked}]
        if prompt.form == "guard":
            messages.append({"role": "assistant", "content": prompt.answer})
        return self._client.chat.completions.create(
            messages=messages, max_completion_tokens=max_tokens, **common, **more
        )

    def _read(self, response: Any, words: tuple[str, str] | None, raw: bool) -> Reply:
        """The text, and the probability of the first word if the server said it."""
        if isinstance(response, str) or not getattr(response, "choices", None):
            return Reply(error=f"malformed reply (no choices in {str(response)[:80]!r})")
        usage = response.usage
        if usage is not None:
            with self._lock:
                self._used["prompt_tokens"] += usage.prompt_tokens or 0
                self._used["completion_tokens"] += usage.completion_tokens or 0
        choice = response.choices[0]
        if getattr(response, "error", None) or choice.finish_reason in _FAILED:
            return Reply(error=f"the server failed (finish reason {choice.finish_reason})")
        text = choice.text if raw else choice.message.content
        if not isinstance(text, str) or not text.strip():
            return Reply(error=f"empty reply (finish reason {choice.finish_reason})")
        if words is None or not choice.logprobs or first_word(text, words) is None:
            return Reply(text=text)
        p = first_word_probability(_positions(choice.logprobs), words)
        return Reply(text=text, probability=None if p is None else p[0], mass=None if p is None else p[1])


def _http_client(openai: Any, settings: ServerSettings, before: Callable[[Any], None]) -> Any:
    """A client that reads whole replies within the time of a try, of at most `_MOST_BYTES`, one per connection.

    The timeout of HTTP clients is that of one read: a server that sends a byte now and then would hold them for good.
    On a connection that is used again, a second answer to one request would be taken for the answer to the next.
    """
    httpx = sys.modules[_client_module(openai)]

    class Bounded(httpx.SyncByteStream):
        def __init__(self, stream: Any):
            self._stream, self._until = stream, time.monotonic() + settings.timeout

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in self._stream:
                size += len(part)
                if time.monotonic() > self._until:
                    raise httpx.ReadTimeout("the reply takes too long")
                if size > _MOST_BYTES:
                    raise httpx.ReadError("the reply is too long")
                yield part

        def close(self) -> None:
            self._stream.close()

    def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx.DecodingError("the reply is compressed, which was not asked for")
        response.stream = Bounded(response.stream)

    limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=0)
    return openai.DefaultHttpxClient(
        timeout=settings.timeout, limits=limits, event_hooks={"request": [before], "response": [bound]}
    )


def _client_module(openai: Any) -> str:
    """The name of the HTTP package that this version of `openai` stands on."""
    names = (base.__module__.partition(".")[0] for base in openai.DefaultHttpxClient.__mro__)
    return next(name for name in names if name.startswith("httpx"))


def first_word_probability(
    positions: Sequence[Mapping[str, float]], words: tuple[str, str]
) -> tuple[float, float] | None:
    """(share of the first word, mass of both) from the likeliest tokens of each position, log-probabilities by text.

    The first position that holds more than white space counts, and there a token stands for the word that it begins.
    None when no such token is there. Raises ValueError for a log-probability that is not a number, or above 0.
    """
    for tokens in positions:
        likeliest = max(tokens, key=tokens.get, default="")
        if not likeliest.strip():
            continue
        masses = [0.0, 0.0]
        for token, logprob in tokens.items():
            if not logprob <= _MOST_LOGPROB:
                raise ValueError(f"log-probability {logprob!r}")
            part = token.strip().lower().lstrip("\u2581\u0120")
            for side, word in enumerate(words):
                masses[side] += math.exp(logprob) if part and word.startswith(part) else 0.0
        total = sum(masses)
        return (masses[0] / total, total) if total > 0 else None
    return None


def data_url(path: Path) -> str:
    """An image file as a data: address; a format that servers may not know becomes PNG. InputError for no image."""
    from PIL import Image

    try:
        kind = mimetypes.guess_type(path.name)[0]
        content = path.read_bytes()
        if kind not in _AS_THEY_ARE:
            made = io.BytesIO()
            Image.open(io.BytesIO(content)).convert("RGB").save(made, "PNG")
            kind, content = "image/png", made.getvalue()
    except OSError as error:
        raise InputError(f"{path}: image cannot be read ({error}); check the data folder") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class _Pace:
    """Spreads tries evenly: at most so many a minute, over all threads."""

    def __init__(self, per_minute: float | None):
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._gap
        time.sleep(max(0.0, mine - now))


def _positions(logprobs: Any) -> list[dict[str, float]]:
    """Likeliest tokens per position, from a chat's or a completion's log-probabilities."""
    if getattr(logprobs, "content", None):
        return [{top.token: top.logprob for top in one.top_logprobs} for one in logprobs.content]
    return [dict(one) for one in getattr(logprobs, "top_logprobs", None) or () if one]


def _problem(error: Exception) -> str:
    """One line on a request that failed for good."""
    status = getattr(error, "status_code", None)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f' {status}' if status else ''}: {text}"[:200]
