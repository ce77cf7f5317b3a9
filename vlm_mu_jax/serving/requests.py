"""What a request asks for: the body of an OpenAI-compatible call, checked field by field."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.serving import programs

MOST_CHOICES = 16  # n, and prompts of one completion
MOST_STOPS = 16
_ACCOUNTING = (  # fields that change no answer
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "stream_options",
    "parallel_tool_calls",
)
_OFF = {  # fields that this server does not have, and the values at which they do nothing
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
_SHARED = ("model", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "logprobs")
_CHAT = ("messages", "max_completion_tokens", "top_logprobs")


class RequestError(Exception):
    """A request that is answered with an error. The message says what to change; param names the field."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code


@dataclasses.dataclass(frozen=True)
class Wish:
    """How a request is to be answered.

    longest: tokens at most, None for the server's default. logprobs: whether they are reported; top: with how many of
    the likeliest tokens. include_usage: whether a stream ends with the numbers of tokens.
    """

    model: str
    longest: int | None
    temperature: float
    top_p: float
    seed: int
    n: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    top: int


def chat_wish(body: Mapping[str, Any]) -> Wish:
    """Of a chat completion. Raises RequestError."""
    _refuse_unknown(body, (*_SHARED, *_CHAT))
    wanted = _field(body, "logprobs", bool, False)
    top = _number(body, "top_logprobs", int, 0, 0, programs.TOP)
    if top and not wanted:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    longest = _number(body, "max_completion_tokens", int, None, 1)
    return _wish(body, _number(body, "max_tokens", int, None, 1) if longest is None else longest, wanted, top)


def completion_wish(body: Mapping[str, Any]) -> Wish:
    """Of a plain completion. Raises RequestError."""
    _refuse_unknown(body, (*_SHARED, "prompt"))
    top = _number(body, "logprobs", int, None, 0, programs.TOP)
    return _wish(body, _number(body, "max_tokens", int, None, 1), top is not None, top or 0)


def completion_prompts(body: Mapping[str, Any]) -> list[str | list[int]]:
    """Prompts of a plain completion: texts, or token ids. Raises RequestError."""
    given = body.get("prompt")
    if isinstance(given, str) or _are(given, int):
        given = [given]
    if not isinstance(given, list) or not given or not all(isinstance(p, str) or _are(p, int) for p in given):
        raise RequestError("prompt must be a text, a list of token ids, or a list of such", "prompt")
    if len(given) > MOST_CHOICES:
        raise RequestError(f"at most {MOST_CHOICES} prompts a request", "prompt")
    for text in given:
        if isinstance(text, str):
            check_text(text, "prompt")
    return given


def check_text(text: str, param: str) -> None:
    """Raises RequestError for a text that is no Unicode text: half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError("a text holds half of a surrogate pair", param) from None


def shown(value: Any) -> str:
    """A value of a request as an error message may repeat it."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is kind for one in value)


def _wish(body: Mapping[str, Any], longest: int | None, logprobs: bool, top: int) -> Wish:
    options = _field(body, "stream_options", dict, {})
    return Wish(
        model=_field(body, "model", str, ""),
        longest=longest,
        temperature=_number(body, "temperature", float, 0.0, 0.0, 2.0),
        top_p=_number(body, "top_p", float, 1.0, 0.0, 1.0),
        seed=_number(body, "seed", int, 0),
        n=_number(body, "n", int, 1, 1, MOST_CHOICES),
        stop=_stops(body),
        stream=_field(body, "stream", bool, False),
        include_usage=options.get("include_usage") is True,
        logprobs=logprobs,
        top=top,
    )


def _refuse_unknown(body: Mapping[str, Any], known: Sequence[str]) -> None:
    """What would change the answer and is not done here is refused, not ignored."""
    for name, value in body.items():
        if value is None or name in known or name in _ACCOUNTING or value in _OFF.get(name, ()):
            continue
        if name in _OFF:
            raise RequestError(f"{name} {shown(value)} is not supported by this server; leave it out", name)
        raise RequestError(f"unknown field {shown(name)}; leave it out", shown(name))


def _field(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        words = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}
        raise RequestError(f"{name} must be {words[kind]}, not {shown(value)}", name)
    return value


def _number(
    body: Mapping[str, Any], name: str, kind: type, default: Any, low: float = -math.inf, high: float = math.inf
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise RequestError(f"{name} must be a {'whole ' if whole else ''}number, not {shown(value)}", name)
    if not low <= value <= high:  # nan is not either
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise RequestError(f"{name} must be {bounds}, not {shown(value)}", name)
    return kind(value)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    given = body.get("stop")
    given = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        raise RequestError("stop must be a text or a list of texts, none of them empty", "stop")
    if len(given) > MOST_STOPS:
        raise RequestError(f"at most {MOST_STOPS} stop texts", "stop")
    return tuple(given)
