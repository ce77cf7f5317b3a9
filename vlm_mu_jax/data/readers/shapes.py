"""The shapes that rows of data files have, told apart by their keys, and the record of a row of each.

    messages       {"messages": [{"role": "user", "content": text or parts}, ...], "images": [...]}
    conversations  {"conversations": [{"from": "human", "value": text}, ...], "image": ...}     LLaVA, ShareGPT; also
                   under "conversation", "dialogue" or "dialog"
    preference     chosen and rejected answers: texts, messages, or two whole conversations
    instruction    {"instruction", "input", "output", "history"}                                alpaca
    question       {"question", "answer", "kind"}; the question under any of `QUESTIONS`, the answer of `ANSWERS`

All may name images (`IMAGES`), a system text (`SYSTEMS`), `id`, `kind` and `category`.
"""

from collections.abc import Callable
from typing import Any

from vlm_mu_jax.data.readers import messages as spoken
from vlm_mu_jax.data.readers.files import LINE
from vlm_mu_jax.data.readers.messages import Message, said
from vlm_mu_jax.data.readers.rows import RowReader
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError

SHAPES = ("vlguard", "messages", "conversations", "preference", "instruction", "question")
# The usual names of a column. The first that a row has is taken.
QUESTIONS = ("question", "prompt", "instruction", "query", "text", "goal", "Goal", LINE)
ANSWERS = ("answer", "response", "output", "completion", "reference_answer")
IMAGES = ("images", "image", "image_path", "image_paths")
SYSTEMS = ("system", "system_prompt")
DIALOGUES = ("dialogue", "dialog")  # lists of messages under these names, beside whatever else the row has
LABELLED = "has a true/false label (KTO): not used"


def shape_of(row: Any) -> str | None:
    """The shape's name, or None for a row of none."""
    if not isinstance(row, dict):
        return None
    keys = row.keys()
    if "instr-resp" in keys:
        return "vlguard"
    if _first(row, ("chosen", "chosen_messages")) and _first(row, ("rejected", "rejected_messages")):
        return "preference"
    if "messages" in keys:
        return "messages"
    if "conversations" in keys or "conversation" in keys or any(isinstance(row.get(name), list) for name in DIALOGUES):
        return "conversations"
    if "instruction" in keys and "output" in keys:
        return "instruction"
    return "question" if any(name in keys for name in QUESTIONS) else None


def record(row: dict, reader: RowReader, kind: str | None = None) -> Record:
    """The record of a row of one of the shapes above (but VLGuard's, which has several records).

    kind: of rows that name none; None = "general".

    Raises InputError saying what is wrong with the row.
    """
    shape = shape_of(row)
    if shape not in _MESSAGES_OF:
        raise InputError(f"is of no shape known here; it has {', '.join(map(str, row))[:100] or 'no fields'}")
    for name in ("videos", "audios"):
        if row.get(name):
            raise InputError(f"holds {name}; only images are read")
    if isinstance(row.get("label"), bool):
        reader.note(LABELLED)
    messages, rejected = _MESSAGES_OF[shape](row)
    messages = _with_system(row, messages)
    note = reader.note if shape != "question" else lambda what: None  # a column of images has no marks
    system, turns = spoken.to_turns(messages, _images(row), reader.any_image, note)
    if rejected is not None and turns[-1].role != "assistant":
        raise InputError("a preference pair must end with the chosen answer")
    return Record(
        _id(row, reader.number),
        turns=turns,
        kind=_optional(row, "kind") or kind or "general",
        category=_optional(row, "category"),
        source=shape,
        system=system,
        rejected=rejected or "",
    )


def _messages(row: dict) -> tuple[list[Message], str | None]:
    names = ("messages", "conversations", "conversation", *DIALOGUES)
    entries = next(row[name] for name in names if name in row)
    found = spoken.parse(entries)
    rejected = row.get("rejected_response")  # a whole conversation, and another last answer
    return found, None if rejected is None else _last(rejected)


def _instruction(row: dict) -> tuple[list[Message], None]:
    question, more = said("user", row["instruction"]).text, row.get("input")
    if isinstance(more, str) and more.strip():
        question = f"{question}\n{more}"
    return [*_history(row), said("user", question), said("assistant", row["output"])], None


def _question(row: dict) -> tuple[list[Message], None]:
    prompt = _first(row, QUESTIONS)
    if prompt is None:
        raise InputError("has no question")
    asked = spoken.parse(prompt) if isinstance(prompt, list) else [said("user", prompt)]
    answer = _first(row, ANSWERS)
    if isinstance(answer, list):
        return [*asked, *spoken.parse(answer)], None
    answered = [] if answer in (None, "") else [said("assistant", answer)]
    return [*_history(row), *asked, *answered], None


def _history(row: dict) -> list[Message]:
    """Earlier turns as pairs of texts."""
    pairs = row.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError("history must hold pairs [question, answer]")
    return [said(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def _preference(row: dict) -> tuple[list[Message], str]:
    chosen, rejected = (_first(row, (name, f"{name}_messages")) for name in ("chosen", "rejected"))
    if isinstance(chosen, list) and len(chosen) > 1:  # both are whole conversations
        whole, other = spoken.parse(chosen), spoken.parse(rejected)
        if whole[:-1] != other[:-1]:
            raise InputError("the chosen and the rejected conversation differ before their last answers")
        return whole, _last(rejected)
    if "conversations" in row or "messages" in row:
        before, _ = _messages(row)
    elif "instruction" in row:
        before = _instruction({**row, "output": ""})[0][:-1]
    else:
        before, _ = _question({key: value for key, value in row.items() if key not in ANSWERS})
    return [*before, said("assistant", _last(chosen))], _last(rejected)


def _last(answer: Any) -> str:
    """The text of an answer given as text, as a message or as a list of messages."""
    if isinstance(answer, str):
        return answer
    found = spoken.parse(answer if isinstance(answer, list) else [answer])
    if not found or found[-1].role != "assistant":
        raise InputError("a chosen or rejected answer must be the assistant's")
    return found[-1].text


_MESSAGES_OF: dict[str, Callable[[dict], tuple[list[Message], str | None]]] = {
    "messages": _messages,
    "conversations": _messages,
    "preference": _preference,
    "instruction": _instruction,
    "question": _question,
}


def _with_system(row: dict, messages: list[Message]) -> list[Message]:
    """With the row's own system text in front, unless a message says it."""
    text = _first(row, SYSTEMS)
    if text in (None, ""):
        return messages
    if messages and messages[0].role == "system":
        if messages[0].text != text:
            raise InputError("the row's system text and its system message differ")
        return messages
    return [said("system", text), *messages]


def _images(row: dict) -> list[Any]:
    """What names the row's images; an empty text or list is none."""
    value = _first(row, IMAGES)
    return [one for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]


def _id(row: dict, number: int) -> str:
    """The row's id, or its number in the file."""
    value = row.get("id")
    if value in (None, ""):
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError("field 'id' must be text or a number")
    return str(value)


def _first(row: dict, names: tuple[str, ...]) -> Any:
    """The first of these columns that the row has with a value."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _optional(row: dict, name: str) -> str:
    value = row.get(name)
    if not (value is None or isinstance(value, str)):
        raise InputError(f"field {name!r} must be text, not {type(value).__name__}")
    return value or ""
