"""Words of a question, and how another word takes the place of one of them.

The attack puts candidate words into questions this way, the evaluation the words that an attack has found.
"""

import dataclasses
import re

from vlm_mu_jax.errors import InputError, nearest

MODES = ("swap", "insert")
POSITIONS = ("question_start", "question_end", "after_image", "response_prefix")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation and image placeholders are no words."""
    return [word.lower() for word in _WORD.findall(text.replace("<image>", " "))]


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word of a text, in characters."""
    return [found.span() for found in _WORD.finditer(text)]


@dataclasses.dataclass(frozen=True)
class Placed:
    """A prompt with a word in it: the question, and what the answer already starts with ("" where the word is in the
    question)."""

    question: str
    answer_start: str = ""


def place(question: str, word: str, position: str = "question_start", mode: str = "swap") -> Placed:
    """Puts `word` into the prompt of `question`.

    Args:
      position: "question_start" and "question_end": as the first or last word (mode "swap"), or before the first word
        or behind the whole question (mode "insert"). "after_image": a line of its own between image and question.
        "response_prefix": what the answer starts with. The last two replace nothing, whatever the mode.
      mode: "swap" or "insert".

    A word that opens a text is capitalised when the question's own first word is, so that a question keeps its style.

    Raises:
      InputError: an unknown position or mode.
    """
    if position not in POSITIONS:
        raise InputError(f"--positions={position}: there is no such position; {nearest(position, POSITIONS)}")
    if mode not in MODES:
        raise InputError(f"--mode={mode}: there is no such mode; use one of {', '.join(MODES)}")
    if position == "question_end":
        return Placed(_close_with(question, word, mode))
    found = _WORD.search(question)
    opening = word[:1].upper() + word[1:] if found and found.group()[0].isupper() else word
    if position == "after_image":
        return Placed(f"{opening}\n{question}")
    if position == "response_prefix":
        return Placed(question, opening)
    return Placed(_open_with(question, opening, mode))


def open_with(question: str, word: str, mode: str = "swap") -> str:
    """`place` at the question's start: the question with `word` as its first word."""
    return place(question, word, "question_start", mode).question


def without_first(text: str, count: int) -> str:
    """The text without its first `count` words, by spaces; the text itself where it has no more than these."""
    parts = text.split(maxsplit=count)
    return parts[count] if len(parts) > count else text


def _open_with(question: str, word: str, mode: str) -> str:
    first = _WORD.search(question)
    if first is None:
        return f"{word} {question}".strip()
    if mode == "swap":
        return question[: first.start()] + word + question[first.end() :]
    return f"{question[: first.start()]}{word} {question[first.start() :]}"


def _close_with(question: str, word: str, mode: str) -> str:
    words = list(_WORD.finditer(question))
    if mode == "insert" or not words:
        return f"{question} {word}".strip()
    return question[: words[-1].start()] + word + question[words[-1].end() :]
