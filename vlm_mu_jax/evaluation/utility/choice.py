"""Which option a free answer chooses, as the public scorers of multiple-choice sets read it."""

import re
from collections.abc import Sequence

from vlm_mu_jax.data.readers.utility_sets import LETTERS

_NO_ANSWER = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def scienceqa(answer: str, choices: Sequence[str]) -> int | None:
    """The option as LLaVA's ScienceQA parser reads it (haotian-liu/LLaVA@c121f04:llava/eval/eval_science_qa.py).

    The whole answer is a letter, or it begins "X. ", or it holds exactly one "The answer is X" with a character behind
    it. None for anything else, and for a letter that is no option here: both count as wrong.
    """
    if answer in LETTERS and len(answer) == 1:
        letter = answer
    elif answer[:1] and answer[0] in LETTERS and answer[1:3] == ". ":
        letter = answer[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", answer)
        letter = found[0] if len(found) == 1 else ""
    return _index(letter, choices)


def mmbench(answer: str, choices: Sequence[str]) -> int | None:
    """The option as VLMEvalKit's exact matching reads it.

    Source: `can_infer` of open-compass/VLMEvalKit@c337155:vlmeval/utils/matching_util.py. Exactly one option letter
    among the words, and among the last four, so that "A cat on the mat." is not option A. Else exactly one option whose
    text the answer holds, unless the answer is over twice as long as all options. No answer is the letter Z, or one of
    four sentences by which models decline. Upstream asks a language model about what is left. Here it is None: wrong,
    and counted as unread.

    Later commits (a67ace5) also take the letter after "answer is" in any case, which reads "the answer is a cat" as
    option A; that step is left out.
    """
    if any(sentence in answer for sentence in _NO_ANSWER):
        return None
    words = answer.translate(_MARKS).split()
    letters = [letter for letter in LETTERS[: len(choices)] if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
        return _index(letters[0], choices)
    if not letters and "Z" in words:
        return None
    text, options = answer.lower(), [choice.lower() for choice in choices]
    if len(text) > 2 * sum(map(len, options)):
        return None
    held = [index for index, option in enumerate(options) if option in text]
    return held[0] if len(held) == 1 else None


def _index(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.find(letter) if letter else -1
    return index if 0 <= index < len(choices) else None
