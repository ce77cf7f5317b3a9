"""Candidate words: where they come from. How one is put into a question is in `data.placing`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

_WORD_STARTS = ("▁", "Ġ")


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
        words = distinct(_read(Path(source)).split("\n"))
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
