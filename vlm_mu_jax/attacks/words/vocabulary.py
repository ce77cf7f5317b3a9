"""Candidate words: where they come from. How one is put into a question is in `data.placing`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.placing import place
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.formats.audit import AuditFile
from vlm_mu_jax.formats.reading import read_file

PIECES = "pieces"
LANGUAGES = {"english": "en"}  # a language by name; all others by their code
# Entries of English lists that are no words: letters by themselves, and what contractions leave.
_NO_WORDS = {"en": frozenset("bcdefghjklmnopqrstuvwxyz") | {"ll", "re", "ve"}}
_WORD_STARTS = ("▁", "Ġ")
_LIST = re.compile(r"([a-z]{2,3}|english):(\d+)")


def distinct(words: Iterable[str]) -> list[str]:
    """Lower-cased words in their first order, each once."""
    return list(dict.fromkeys(word.strip().lower() for word in words if word.strip()))


def frequent_words(language: str, count: int) -> list[str]:
    """The `count` most frequent words of a language, most frequent first: words of letters alone. Of English ones
    single letters but "a" and "i" are left out.

    language: "english" or a code, such as "de". Source: the package wordfreq, whose data end in 2021 and stay as they
    are, so that a list is the same tomorrow.

    Raises InputError when the package is missing or has not that language or that many words.
    """
    try:
        import wordfreq
    except ImportError:
        raise InputError(f"--words={language}:{count} needs wordfreq; pip install 'vlm_mu_jax[words]'") from None
    code = LANGUAGES.get(language, language)
    try:
        listed = wordfreq.top_n_list(code, 4 * count + 1000)
    except LookupError:
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise InputError(f"--words={language}:{count}: there is no list of {language!r}; there are {known}") from None
    left_out = _NO_WORDS.get(code, frozenset())
    found = distinct(word for word in listed if word.isalpha() and word not in left_out)
    if len(found) < count:
        raise InputError(f"--words={language}:{count}: the list has {len(found)} words; ask for fewer")
    return found[:count]


def is_frequency_list(source: str) -> bool:
    """Whether a source of candidates is `english:N` or `CODE:N`."""
    return _LIST.fullmatch(source) is not None


def tokens_of(tokenizer: Any, word: str, question: str) -> int:
    """How many tokens a word is as it is put in front of a question: with a space before it, in the question's case."""
    written = place(question, word).question[: len(word)]
    return len(tokenizer(f" {written}", add_special_tokens=False)["input_ids"])


def tokenizer_words(tokenizer: Any, min_letters: int = 2) -> list[str]:
    """Every alphabetic piece that the tokenizer holds as one word-start token, in the order of the token ids.

    On a byte-level vocabulary of real text many of them are no words ("th", "con"); see `frequent_words` for those.

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
    """The candidates of --words.

    Args:
      source: `english:N` or `CODE:N`, the N most frequent words of a language; `pieces`, the tokenizer's own;
        `audit:FILE`, first words of an audit; or a file, one word a line.
    """
    if source == PIECES:
        words = tokenizer_words(tokenizer)
    elif listed := _LIST.fullmatch(source):
        words = frequent_words(listed[1], int(listed[2]))
    elif source.startswith("audit:"):
        words = _audit_words(Path(source.removeprefix("audit:")))
    else:
        words = distinct(_read(Path(source)).split("\n"))
    if not words:
        raise InputError(
            f"--words={source}: no word found; use english:N, pieces, audit:FILE or a file with one word a line"
        )
    return words


def first_words(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The words of an audit's rows that open a question."""
    return distinct(row["word"] for row in rows if row.get("position") == "first")


def _audit_words(path: Path) -> list[str]:
    return first_words(read_file(path, AuditFile).get("rows") or ())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--words: {path} cannot be read ({error}); use english:N, pieces, audit:FILE or a text file"
        ) from error
