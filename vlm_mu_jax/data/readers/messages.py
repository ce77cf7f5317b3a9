"""Messages as files spell them, turned into the turns of a record with every image where it stands.

Two spellings are in use, `{"from": "human", "value": text}` (LLaVA, ShareGPT) and `{"role": "user", "content": text}`
(OpenAI, TRL). `content` may be a list of parts: `{"type": "text", "text": ...}`, `{"type": "image"}`,
`{"type": "image_url", "image_url": {"url": ...}}`. An image stands at the mark `<image>` of a text, or as a part.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.errors import InputError

MARK = "<image>"
MARK_AS_TEXT = "< image >"  # in a text that is no place of an image: a tokenizer would take the mark for one
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}
# What a reader does to rows that it reads; counted in `Records.notes`.
SKIPPED_ANSWER = "starts with an answer: skipped, as LLaVA's own training code does"
IMAGE_FIRST = "image without an <image> mark: put before the first question"
MENTIONED = f"text mentions {MARK} but the row has no image: kept as the words {MARK_AS_TEXT!r}"


@dataclasses.dataclass(frozen=True)
class ImageSlot:
    """The place of an image. value: what names it there, or None for the next of the row's own images."""

    value: Any = None


_OPEN = ImageSlot()


@dataclasses.dataclass(frozen=True)
class Message:
    """One message as the file has it. role: "system", "user" or "assistant"."""

    role: str
    parts: tuple[str | ImageSlot, ...]

    @property
    def text(self) -> str:
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        return "".join(part for part in self.parts if isinstance(part, str))


def parse(entries: Any) -> list[Message]:
    """The messages of a list in either spelling, or of `[{"human": text, "assistant": text}, ...]`."""
    if not isinstance(entries, list):
        raise InputError(f"a conversation must be a list of messages, not {type(entries).__name__}")
    messages: list[Message] = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise InputError("a conversation must hold objects")
        if "human" in entry and "assistant" in entry:  # a pair in one object
            messages += [said("user", entry["human"]), said("assistant", entry["assistant"])]
        else:
            messages.append(_one(entry, number))
    return messages


def said(role: str, text: Any) -> Message:
    """A message of one text. Raises InputError when it is none."""
    if not isinstance(text, str):
        raise InputError(f"the {role}'s message must be text, not {type(text).__name__}")
    return Message(role, (text,))


def _one(entry: dict, number: int) -> Message:
    name = entry.get("role", entry.get("from"))
    if name is None:
        raise InputError(f"message {number} has neither 'role' nor 'from'")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise InputError(f"message {number} is by {str(name)[:40]!r}; read are {', '.join(ROLES)}")
    key = next((key for key in ("content", "value", "text") if key in entry), None)
    if key is None:
        raise InputError(f"message {number}: field {'value' if 'from' in entry else 'content'!r} is missing")
    content = entry[key]
    if isinstance(content, str):
        return Message(role, (content.strip() if "from" in entry and role == "user" else content,))
    if not isinstance(content, list):
        raise InputError(f"message {number}: {key!r} must be text or a list of parts, not {type(content).__name__}")
    return Message(role, tuple(_part(part) for part in content))


def _part(part: Any) -> str | ImageSlot:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        text = part.get("text", part.get("value"))
        if not isinstance(text, str):
            raise InputError("a text part holds no text")
        return text
    if kind in ("image", "image_url"):
        value = next((part[key] for key in ("image_url", "image", "url", "path", "value") if part.get(key)), None)
        return ImageSlot(value.get("url", value) if isinstance(value, dict) else value)
    raise InputError(f"a part of type {str(kind)[:40]!r} is neither text nor image")


def to_turns(
    messages: Sequence[Message], images: Sequence[Any], find: Callable[[Any], str], note: Callable[[str], None]
) -> tuple[str | None, tuple[Turn, ...]]:
    """(system text or None, turns) of a row's messages.

    Args:
      messages: in their order, a system message first if there is one.
      images: what names the row's own images, in the order of their marks.
      find: what names an image -> its path under the data root.
      note: told of everything done to the row (`SKIPPED_ANSWER`, ...).

    Raises InputError when marks and images do not agree, or the turns do not alternate.
    """
    system = None
    if messages and messages[0].role == "system":
        system, messages = _as_text(messages[0], note).text.strip() or None, messages[1:]
    if messages and messages[0].role == "assistant":
        note(SKIPPED_ANSWER)
        messages = messages[1:]
    _check_order(messages)
    placed = _placed(messages, list(images), note)
    turns = []
    for number, message in enumerate(placed, start=1):
        parts = _tidy(message.parts) if message.role == "user" else message.parts
        turn = Turn(message.role, tuple(ImagePart(find(p.value)) if isinstance(p, ImageSlot) else p for p in parts))
        if turn.role == "assistant" and not turn.text.strip():
            raise InputError(f"turn {number} is an empty answer")
        turns.append(turn)
    return system, tuple(turns)


def _check_order(messages: Sequence[Message]) -> None:
    if not messages:
        raise InputError("a conversation must have a question")
    for number, message in enumerate(messages, start=1):
        expected = ("assistant", "user")[number % 2]
        if message.role != expected:
            before = f"behind the {messages[number - 2].role}'s" if number > 1 else "first"
            raise InputError(f"turn {number} is the {message.role}'s {before}, where the {expected}'s belongs")


def _placed(messages: Sequence[Message], images: list[Any], note: Callable[[str], None]) -> Sequence[Message]:
    """The messages with every slot holding what names its image."""
    open_slots = sum(part == _OPEN for message in messages for part in message.parts if not isinstance(part, str))
    marked = [message.text.count(MARK) for message in messages]
    marks = sum(marked)
    if not images:
        if open_slots:
            raise InputError("an image part names no image, and the row has none of its own")
        return [_as_text(message, note) for message in messages] if marks else messages
    if not open_slots and not marks:
        note(IMAGE_FIRST)
        first = dataclasses.replace(messages[0], parts=(*map(ImageSlot, images), *messages[0].parts))
        return [first, *messages[1:]]
    if open_slots + marks != len(images):
        raise InputError(f"{_count(open_slots + marks, f'{MARK} mark')} for {_count(len(images), 'image')}")
    coming = iter(images)
    split = [_split(message) if count else message for message, count in zip(messages, marked, strict=True)]
    return [
        message
        if all(isinstance(part, str) for part in message.parts)
        else Message(message.role, tuple(ImageSlot(next(coming)) if part == _OPEN else part for part in message.parts))
        for message in split
    ]


def _split(message: Message) -> Message:
    """Every mark as a slot of its own."""
    parts: list[str | ImageSlot] = []
    for part in message.parts:
        if isinstance(part, str):
            for i, text in enumerate(part.split(MARK)):
                parts += [ImageSlot(), text] if i else [text]
        else:
            parts.append(part)
    return Message(message.role, tuple(parts))


def _as_text(message: Message, note: Callable[[str], None]) -> Message:
    """Marks of a text without images are words."""
    if MARK not in message.text:
        return message
    note(MENTIONED)
    parts = tuple(part.replace(MARK, MARK_AS_TEXT) if isinstance(part, str) else part for part in message.parts)
    return dataclasses.replace(message, parts=parts)


def _tidy(parts: tuple[str | ImageSlot, ...]) -> tuple[str | ImageSlot, ...]:
    """Without the blank space that only separated a mark from the words. A message of words alone stays as it is."""
    if len(parts) == 1:
        return parts
    kept = [part for part in parts if isinstance(part, ImageSlot) or part.strip()]
    words = [i for i, part in enumerate(kept) if isinstance(part, str)]
    if words:
        kept[words[0]] = kept[words[0]].lstrip()
        kept[words[-1]] = kept[words[-1]].rstrip()
    return tuple(kept)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
