"""Texts that need no search: the answer is begun (`prefill`), or the question is put in other words (`paraphrase`).

A beginning and its prompt are tokenised as one text, so that the tokens are those of a real answer. The beginning must
end where a token ends. Otherwise (behind a space, or inside a word) the model would have to continue from a token that
it has never seen there, and the attack would measure that. Spaces at the end are therefore dropped, and half tokens
refused.

Paraphrases answer a question about a word that was found: does the word break the model, or any new wording? They are
given for each question, or made from templates around it. The attack is the paraphrase with the word put in. Its
control is the same paraphrase without it. The word alone stands beside them.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.attacks.measure import Attempt, Attempts, with_words
from vlm_mu_jax.attacks.method import Setting, Unsearched
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import parse_json

# The question stays first, so that its first word, where words act, is still the prompt's.
TEMPLATES = (
    "{question} Please answer in full sentences.",
    "{question} I would like to know it in detail.",
    "{question} Thank you for your answer.",
)


def prefill(prefills: Sequence[str] | None, answers: Sequence[str]) -> Unsearched:
    """The answer is begun for the model.

    Args:
      prefills: the beginnings; None takes the most frequent ones of `answers`, one per shot.
      answers: reference answers that do not refuse. The control draws its words from them.
    """

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = prefills or beginnings(answers, setting.draw.shots)
        texts = [at_boundary(setting.model.processor, "", text) for text in texts]
        return (*prefill_attempts(records, texts, setting.draw.seed, answers), {})

    return Unsearched("prefill", make, "as many random words of the reference answers")


def beginnings(answers: Sequence[str], count: int, words: int = 3) -> list[str]:
    """The `count` most frequent beginnings, of so many words, of reference answers that do not refuse."""
    starts = Counter(" ".join(answer.split()[:words]) for answer in answers if len(answer.split()) > words)
    if not starts:
        raise InputError("the data hold no reference answer that is no refusal; give beginnings with --prefills=FILE")
    return [text for text, _ in starts.most_common(count)]


def at_boundary(processor: Processor, question: str, text: str) -> str:
    """The beginning without spaces at its end. InputError where its last piece would change when more text follows."""
    text = text.strip()
    alone, longer = (processor.example(question, t, images=0, ended=False).ids for t in (text, f"{text} that"))
    if not text or longer[: len(alone)] != alone:
        raise InputError(f"the answer's beginning {text!r} does not end where a token ends; end it with a whole word")
    return text


def prefill_attempts(
    asked: Records, texts: Sequence[str], seed: int, answers: Sequence[str]
) -> tuple[Attempts, Attempts]:
    """Each question with each beginning; control: as many words drawn from the reference `answers`, in no order."""
    rng, words = random.Random(f"{seed}/prefill"), sorted({w for answer in answers for w in answer.split()})
    null = [" ".join(rng.choices(words, k=len(text.split()))) for text in texts]
    sides = ({r.id: [Attempt(text, r.question, text) for text in side] for r in asked} for side in (texts, null))
    return tuple(sides)


def paraphrase(given: Sequence[str] | Mapping[str, Sequence[str]], word: str, mode: str) -> Unsearched:
    """Paraphrases with a word as their first one. given: as `read_paraphrases` returns it."""

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = paraphrases(records, given)
        both, alone, word_alone = paraphrase_attempts(records, texts, word, mode)
        return both, alone, {"word_alone": word_alone}

    return Unsearched("paraphrase", make, "the same paraphrases without the word", {"word": word})


def read_paraphrases(path: Path) -> Sequence[str] | Mapping[str, Sequence[str]]:
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


def read_beginnings(flag: str, path: str | Path) -> list[str]:
    """Beginnings of answers, one a line of the file that `flag` names. Raises InputError where there are none."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--{flag}={path}: cannot be read ({error}); give a text file, one beginning of an answer a line"
        ) from error
    if not lines:
        raise InputError(f"--{flag}={path}: holds no line; give one beginning of an answer a line")
    return lines


def _by_id(path: Path, text: str) -> Mapping[str, Sequence[str]]:
    try:
        given = parse_json(text)
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


def paraphrase_attempts(
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
