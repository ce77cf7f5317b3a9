"""Words: how questions split into them, how one is put at the start of a question, and where candidates come from."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

MODES = ("swap", "insert")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_WORD_STARTS = ("▁", "Ġ")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation and image placeholders are no words."""
    return [word.lower() for word in _WORD.findall(text.replace("<image>", " "))]


def open_with(question: str, word: str, mode: str = "swap") -> str:
    """The question with `word` as its first word.

    mode "swap" replaces the first word, "insert" puts the word before it. The new word is capitalised when the old
    first word was, so that a question keeps its style. A question without any word gets the word put in front.
    """
    if mode not in MODES:
        raise InputError(f"--mode={mode}: there is no such mode; use one of {', '.join(MODES)}")
    first = _WORD.search(question)
    if first is None:
        return f"{word} {question}".strip()
    if first.group()[0].isupper():
        word = word[:1].upper() + word[1:]
    if mode == "swap":
        return question[: first.start()] + word + question[first.end() :]
    return f"{question[: first.start()]}{word} {question[first.start() :]}"


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


def _audit_words(path: Path) -> list[str]:
    try:
        rows = json.loads(_read(path))["rows"]
        return distinct(row["word"] for row in rows if row["position"] == "first")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of bin/audit ({error}); write one with bin/audit --out={path}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--words: {path} cannot be read ({error}); use tokenizer, audit:FILE or a text file"
        ) from error
