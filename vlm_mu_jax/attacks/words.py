"""Words: how questions split into them, how one is put into a prompt, and where candidates come from."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

MODES = ("swap", "insert")
POSITIONS = ("question_start", "question_end", "after_image", "response_prefix")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORD_STARTS = ("▁", "Ġ")


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
        raise InputError(f"--positions={position}: there is no such position; use some of {', '.join(POSITIONS)}")
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


def distinct(words: Iterable[str]) -> list[str]:
    """Lower-cased words in their first order, each once."""
    return list(dict.fromkeys(word.strip().lower() for word in words if word.strip()))


def tokenizer_words(tokenizer: Any, min_letters: int = 2) -> list[str]:
    """Every alphabetic word that the tokenizer holds as one word-start token, in the order of the token ids.

    Vocabularies that mark word starts (sentencepiece "▁what", byte-level "Ġwhat") give their marked tokens, others
    (word-level) all; the word must encode back to the token. Left out: pieces from inside words, special tokens,
    digits, punctuation. Words that differ in case only are one word.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    marked = any(token.startswith(_WORD_STARTS) for token in tokens if token)
    special = set(tokenizer.all_special_ids)
    found = []
    for index, token in enumerate(tokens):
        if index in special or not token or (marked and not token.startswith(_WORD_STARTS)):
            continue
        text = tokenizer.decode([index], skip_special_tokens=False).strip()
        if len(text) >= min_letters and text.isalpha() and _is_whole(tokenizer, text, index):
            found.append(text)
    return distinct(found)


def _is_whole(tokenizer: Any, text: str, index: int) -> bool:
    return any(tokenizer.encode(form, add_special_tokens=False) == [index] for form in (f" {text}", text))


def candidate_words(source: str, tokenizer: Any) -> list[str]:
    """The candidates of --words: `tokenizer`, `audit:FILE` (first words of an audit) or a file, one word a line."""
    if source == "tokenizer":
        words = tokenizer_words(tokenizer)
    elif source.startswith("audit:"):
        words = _audit_words(Path(source.removeprefix("audit:")))
    else:
        words = distinct(_read(Path(source)).splitlines())
    if not words:
        raise InputError(f"--words={source}: no word found; use tokenizer, audit:FILE or a file with one word a line")
    return words


def first_words(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The words of an audit's rows that open a question."""
    return distinct(row["word"] for row in rows if row["position"] == "first")


def _audit_words(path: Path) -> list[str]:
    try:
        return first_words(json.loads(_read(path))["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of bin/audit ({error}); write one with bin/audit --out={path}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--words: {path} cannot be read ({error}); use tokenizer, audit:FILE or a text file"
        ) from error
