"""What the server sends: OpenAI's JSON shapes of completions, chunks of a stream, models and errors."""

import dataclasses
import functools
import itertools
import time
import uuid
from collections.abc import Sequence
from typing import Any

from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.serving.engine import MadeToken


class TokenTexts:
    """The text of single tokens as it stands inside an answer, with its leading space."""

    def __init__(self, processor: Processor):
        self._tokenizer = processor.tokenizer
        self._anchor = self._tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._before = self._tokenizer.decode(self._anchor)

    @functools.lru_cache(maxsize=2**16)  # noqa: B019 (lives as long as the server)
    def __call__(self, token: int) -> str:
        return self._tokenizer.decode([*self._anchor, token]).removeprefix(self._before)


@dataclasses.dataclass(frozen=True)
class ReplyFrame:
    """The frame of one completion. chat: a chat completion, or else a plain one. texts: of its model's tokens."""

    model: str
    chat: bool
    texts: TokenTexts
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        return self._frame("chat.completion" if self.chat else "text_completion", choices) | {"usage": usage}

    def chunk(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        frame = self._frame("chat.completion.chunk" if self.chat else "text_completion", choices)
        return frame if usage is None else frame | {"usage": usage}

    def _frame(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        head = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": list(choices)}

    def choice(self, index: int, text: str, tokens: Sequence[MadeToken] | None, end: str) -> dict[str, Any]:
        """A whole choice. tokens: those whose log-probabilities are reported, None for no report."""
        body = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        return {"index": index, **body, "logprobs": self._logprobs(tokens), "finish_reason": end}

    def opening(self, index: int) -> dict[str, Any]:
        """The first piece of a streamed chat choice."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, text: str, tokens: Sequence[MadeToken] | None, end: str | None) -> dict[str, Any]:
        """A piece of a streamed choice."""
        body = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return {"index": index, **body, "logprobs": self._logprobs(tokens), "finish_reason": end}

    def _logprobs(self, tokens: Sequence[MadeToken] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        if self.chat:
            return {"content": [self._scored(t.id, t.logprob) | {"top_logprobs": self._top(t)} for t in tokens]}
        texts = [self.texts(t.id) for t in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [{self.texts(id): logprob for id, logprob in t.top} for t in tokens],
            "text_offset": [0, *itertools.accumulate(map(len, texts[:-1]))] if texts else [],
        }

    def _top(self, token: MadeToken) -> list[dict[str, Any]]:
        return [self._scored(id, logprob) for id, logprob in token.top]

    def _scored(self, id: int, logprob: float) -> dict[str, Any]:
        text = self.texts(id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8"))}


def usage(prompt_tokens: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": made, "total_tokens": prompt_tokens + made}


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models_body(names: Sequence[str], since: int) -> dict[str, Any]:
    rows = [{"id": name, "object": "model", "created": since, "owned_by": "vlm_mu_jax"} for name in names]
    return {"object": "list", "data": rows}
