"""Prefill: the answer is begun for the model, which then only continues it.

Prompt and beginning are tokenised as one text, so that the tokens are those of a real answer. The beginning must end
where a token ends. Otherwise (behind a space, or inside a word) the model would have to continue from a token that it
has never seen there, and the attack would measure that. Spaces at the end are therefore dropped, and half tokens
refused.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from vlm_mu_jax.attacks.measure import Attempt, Attempts
from vlm_mu_jax.attacks.method import Setting, Unsearched
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError


def begun(prefills: Sequence[str] | None, answers: Sequence[str]) -> Unsearched:
    """The answer is begun for the model.

    Args:
      prefills: the beginnings; None takes the most frequent ones of `answers`, one per shot.
      answers: reference answers that do not refuse. The control draws its words from them.
    """

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = prefills or found(answers, setting.draw.shots)
        texts = [at_boundary(setting.model.processor, "", text) for text in texts]
        return (*attempts(records, texts, setting.draw.seed, answers), {})

    return Unsearched("prefill", make, "as many random words of the reference answers")


def found(answers: Sequence[str], count: int, words: int = 3) -> list[str]:
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


def attempts(asked: Records, texts: Sequence[str], seed: int, answers: Sequence[str]) -> tuple[Attempts, Attempts]:
    """Each question with each beginning; control: as many words drawn from the reference `answers`, in no order."""
    rng, words = random.Random(f"{seed}/prefill"), sorted({w for answer in answers for w in answer.split()})
    null = [" ".join(rng.choices(words, k=len(text.split()))) for text in texts]
    sides = ({r.id: [Attempt(text, r.question, text) for text in side] for r in asked} for side in (texts, null))
    return tuple(sides)
