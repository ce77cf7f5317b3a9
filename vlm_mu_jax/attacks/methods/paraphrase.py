"""Paraphrases of the questions, with and without a word: does the word break the model, or any new wording?

Paraphrases are given for each question, or made from templates around it. The attack is the paraphrase with the word
put in. Its control is the same paraphrase without it. The word alone stands beside them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.attacks.measure import Attempt, Attempts, with_words
from vlm_mu_jax.attacks.method import Setting, Unsearched
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError

# The question stays first, so that its first word, where words act, is still the prompt's.
TEMPLATES = (
    "{question} Please answer in full sentences.",
    "{question} I would like to know it in detail.",
    "{question} Thank you for your answer.",
)


def paraphrased(given: Sequence[str] | Mapping[str, Sequence[str]], word: str, mode: str) -> Unsearched:
    """Paraphrases with a word as their first one. given: as `read` returns it."""

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = paraphrases(records, given)
        both, alone, word_alone = attempts(records, texts, word, mode)
        return both, alone, {"word_alone": word_alone}

    return Unsearched("paraphrase", make, "the same paraphrases without the word", {"word": word})


def read(path: Path) -> Sequence[str] | Mapping[str, Sequence[str]]:
    """Templates (one a line, with {question} in it), or paraphrases by record id ({"id": ["...", ...]}, JSON).

    Raises:
      InputError: the file is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--paraphrases={path}: cannot be read ({error}); give a text or JSON file") from error
    if path.suffix == ".json":
        return _by_id(path, text)
    templates = [line.strip() for line in text.split("\n") if line.strip()]
    if not templates or not all("{question}" in line for line in templates):
        raise InputError(f"--paraphrases={path}: every line must hold {{question}}; or give a .json file by record id")
    return templates


def _by_id(path: Path, text: str) -> Mapping[str, Sequence[str]]:
    try:
        given = json.loads(text)
        if all(texts and all(isinstance(t, str) and t.strip() for t in texts) for texts in given.values()):
            return given
    except (ValueError, AttributeError, TypeError):
        pass
    raise InputError(f'--paraphrases={path}: must be {{"record id": ["paraphrase", ...], ...}}, none of them empty')


def paraphrases(asked: Records, given: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Every question's paraphrases, by record id. InputError for a question that has none."""
    if not isinstance(given, Mapping):
        return {r.id: [template.replace("{question}", r.question) for template in given] for r in asked}
    missing = next((r.id for r in asked if r.id not in given), None)
    if missing is not None:
        raise InputError(f"--paraphrases: holds none for the question {missing}; add it or lower --verify_questions")
    return {r.id: list(given[r.id]) for r in asked}


def attempts(
    asked: Records, texts: Mapping[str, Sequence[str]], word: str, mode: str
) -> tuple[Attempts, Attempts, Attempts]:
    """(paraphrase with the word, paraphrase alone, word alone), the word as the first one of the text."""
    both, alone = {}, {}
    for record in asked:
        shots = range(len(texts[record.id]))
        placed = [place(text, word, "question_start", mode).question for text in texts[record.id]]
        both[record.id] = [Attempt(f"paraphrase {i} with {word}", placed[i]) for i in shots]
        alone[record.id] = [Attempt(f"paraphrase {i}", texts[record.id][i]) for i in shots]
    word_alone = with_words(asked, dict.fromkeys((r.id for r in asked), (word,)), "question_start", mode)
    return both, alone, word_alone
