"""Where the answers stand in a rendered conversation, found by rendering it: no template says so in general."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from vlm_mu_jax.data.chat_template import Message
from vlm_mu_jax.errors import InputError

_STAND_INS = "\ue000{}\ue001"  # private characters: nothing that a template trims, splits at or changes


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A rendered conversation. spans: (first, end) of every answer in it, in characters."""

    text: str
    spans: tuple[tuple[int, int], ...]


def find(messages: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> Spoken:
    """The text of a conversation and where its answers stand in it.

    The conversation is rendered twice, once with stand-ins for the answers. What the template prints between them is
    then known, and with it where each answer begins and ends, whether the template trims it or not.

    Args:
      messages: as of `chat_template.to_messages`.
      render: their text.

    Raises InputError for a template that does not show every answer once, in order.
    """
    text = render(messages)
    answers = ["".join(p["text"] for p in one["content"]) for one in messages if one["role"] == "assistant"]
    between = _between(messages, render, len(answers))
    if not text.startswith(between[0]):
        raise _unclear()
    spans, at = [], len(between[0])
    for k, (answer, after) in enumerate(zip(answers, between[1:], strict=True)):
        end = _end(text, at, answer, after, last=k == len(answers) - 1)
        spans.append((at, end))
        at = end + len(after)
    if at != len(text):
        raise _unclear()
    return Spoken(text, tuple(spans))


def _end(text: str, at: int, answer: str, after: str, last: bool) -> int:
    """Where the answer that begins at `at` ends: in front of `after`, which is all of the rest for the last answer."""
    for shown in (answer, answer.strip()):
        end = at + len(shown)
        if text.startswith(shown + after, at) and (not last or end + len(after) == len(text)):
            return end
    # The template shows a part of the answer: some drop the reasoning of earlier turns.
    end = len(text) - len(after) if last else text.find(after, at)
    if end < at or not after and not last or not text.startswith(after, end):
        raise _unclear()
    return end


def with_ends(spoken: Spoken, gap: str, ends: Sequence[str]) -> Spoken:
    """The spans with all that the model has to write: the gap before an answer, and the end that follows it.

    Args:
      gap: what the template prints between a prompt and its answer.
      ends: texts that end an answer, such as the special tokens. Blank space before one belongs to it.
    """
    pattern = re.compile(r"\s*(?:" + "|".join(re.escape(one) for one in sorted(ends, key=len, reverse=True)) + ")")
    spans = []
    for start, end in spoken.spans:
        found = pattern.match(spoken.text, end) if ends else None
        begin = start - len(gap) if spoken.text.endswith(gap, 0, start) else start
        spans.append((begin, found.end() if found else end))
    return Spoken(spoken.text, tuple(spans))


def _between(messages: Sequence[Message], render: Callable[[Sequence[Message]], str], count: int) -> list[str]:
    """What the template prints before, between and behind the answers."""
    names, marked = iter(_STAND_INS.format(k) for k in range(count)), []
    for one in messages:
        content = [{"type": "text", "text": next(names)}] if one["role"] == "assistant" else one["content"]
        marked.append({**one, "content": content})
    pieces, rest = [], render(marked)
    for k in range(count):
        before, found, rest = rest.partition(_STAND_INS.format(k))
        if not found:
            raise _unclear()
        pieces.append(before)
    return [*pieces, rest]


def _unclear() -> InputError:
    return InputError(
        "the chat template does not show every answer as it is, so that nobody can say which tokens to train on; give"
        " another with --chat_template or --template"
    )
