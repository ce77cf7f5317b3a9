"""Prompts with a suffix: how suffixes are searched, as text and as token ids, and what scores those of one question.

A suffix is sent as text, so it is scored as text: the prompt with it is tokenised anew as a whole.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.attacks.margin.scoring import Place, QuestionSearch, SearchTask, Shared
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError, JobError

POSITION, MODE = "question_end", "insert"  # of `data.placing.place`: what a suffix is
LONGEST = 4  # tokens that a random proposal replaces at once, at most
_DRAWS = 64  # random suffixes drawn at a time
_KEPT = 4  # prefix caches of a question under different gates


@dataclasses.dataclass(frozen=True)
class Slots:
    """A prompt with a suffix as token ids, one placeholder per image: head + ids + tail, `ids` being the suffix's."""

    head: tuple[int, ...]
    ids: tuple[int, ...]
    tail: tuple[int, ...]


def vocabulary(processor: Processor, V: int) -> np.ndarray:
    """Token ids a suffix may be made of: what prints, and is no special token. InputError when there is none."""
    tokenizer = processor.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    every = [i for i in range(min(len(tokenizer), V)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in every], clean_up_tokenization_spaces=False) if every else []
    kept = [i for i, text in zip(every, texts, strict=True) if text.strip() and text.isprintable() and "�" not in text]
    if not kept:
        raise InputError("the tokenizer has no printable token to make a suffix of; use the model's own tokenizer")
    return np.array(kept, np.int32)


def with_suffix(question: str, text: str) -> str:
    return place(question, text, POSITION, MODE).question


def slots(processor: Processor, question: str, text: str, images: Images, context: Context | None = None) -> Slots:
    """Where a suffix stands in its prompt: what the prompt with it does not share with the prompt without it.

    images, context: of the prompt, as `Processor.short_ids` takes them.
    """
    bare, full = processor.short_ids([(question, ""), (with_suffix(question, text), "")], images, context)
    most = min(len(bare), len(full))
    head = next((i for i in range(most) if bare[i] != full[i]), most)
    tail = next((i for i in range(most - head) if bare[-1 - i] != full[-1 - i]), most - head)
    return Slots(full[:head], full[head : len(full) - tail], full[len(full) - tail :])


def aligned(
    processor: Processor, question: str, text: str, like: Slots, images: Images, context: Context | None = None
) -> Slots | None:
    """Where a suffix stands behind another question: None where its ids there are not those of `like`."""
    (full,) = processor.short_ids([(with_suffix(question, text), "")], images, context)
    behind = like.ids + like.tail
    return Slots(full[: -len(behind)], like.ids, like.tail) if full[-len(behind) :] == behind else None


def surviving(
    processor: Processor,
    question: str,
    now: Slots,
    proposed_NS: np.ndarray,
    images: Images,
    context: Context | None = None,
) -> tuple[list[str], list[int]]:
    """(texts, their rows): the proposals whose text is tokenised to their very ids, each text once."""
    texts = _texts(processor, proposed_NS)
    rows = processor.short_ids([(with_suffix(question, text), "") for text in texts], images, context) if texts else []
    kept: dict[str, int] = {}
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if text and row == (*now.head, *proposed_NS[i].tolist(), *now.tail):
            kept.setdefault(text, i)
    return list(kept), list(kept.values())


def random_stretches(
    open_: Sequence[tuple["Scorer", Slots]],
    ids: tuple[int, ...],
    allowed: np.ndarray,
    use: "SuffixOptions",
    rng: np.random.Generator,
) -> np.ndarray:
    """Ids [N, S]: each row a stretch of 1 to `LONGEST` tokens of the suffix drawn anew; see `suffix.Propose`.

    The proposals of a search without gradients. The idea is that of Andriushchenko et al. 2024 (arXiv 2404.02151):
    replace a short stretch, and keep the change when the score is better. Here many stretches are tried at a time, and
    the score is the refusal margin.
    """
    S, N = len(ids), use.candidates - 1
    proposed_NS = np.tile(np.array(ids, np.int32), (N, 1))
    size_N = rng.integers(1, min(LONGEST, S) + 1, N)
    start_N = rng.integers(0, S - size_N + 1)
    at_S = np.arange(S)[None]
    changed_NS = (at_S >= start_N[:, None]) & (at_S < (start_N + size_N)[:, None])
    return np.where(changed_NS, rng.choice(allowed, (N, S)), proposed_NS)


def random_suffix(
    processor: Processor,
    question: str,
    images: Images,
    allowed: np.ndarray,
    length: int,
    rng: np.random.Generator,
    context: Context | None = None,
) -> str:
    """Text of random tokens that is `length` tokens long behind the question, or as near to it as a draw comes."""
    texts = [text for text in _texts(processor, rng.choice(allowed, (_DRAWS, length))) if text]
    return min(texts, key=lambda text: abs(len(slots(processor, question, text, images, context).ids) - length))


def _texts(processor: Processor, ids_NS: np.ndarray) -> list[str]:
    """Suffixes as they stand behind a question; one with the image placeholder's text in it is empty."""
    texts = processor.tokenizer.batch_decode(ids_NS.tolist(), clean_up_tokenization_spaces=False)
    image = processor.cfg.image_token_id
    mark = None if image is None else processor.tokenizer.convert_ids_to_tokens(image)
    return ["" if mark and mark in text else text.strip() for text in texts]


@dataclasses.dataclass(frozen=True)
class SuffixOptions:
    """How suffixes are searched.

    Attributes:
      steps: at most so many.
      candidates: prompts that a step scores for a question. The unchanged question is one of them.
      start: the text that a suffix starts with. "" starts with random tokens, `length` of them.
      top: how many tokens gradients propose for each place of the suffix.
      stop: a question is broken when its margin has passed 0 by so many nats in the goal's direction. A search ends
        when all of its questions are broken.
      block: candidates scored by one program.
      seed: draws starts, proposals and controls. `vlm_mu_jax.attack` sets it to its own.
    """

    steps: int = 50
    candidates: int = 128
    start: str = ""
    length: int = 12
    top: int = 64
    stop: float = 3.0
    block: int = 64
    seed: int = 0


class Scorer:
    """Scores suffixes of one question, and counts what that costs (`prompts`, `gradients`, `flops`)."""

    def __init__(self, task: SearchTask, where: Place, question: SearchQuestion) -> None:
        self.task, self.where, self.question = task, where, question.question
        self.shared = Shared(task, where, question.pixels(task.processor), question.context, kept=_KEPT)
        self.prompts, self.gradients, self._flops = 0, 0, 0.0

    @property
    def flops(self) -> float:
        return self._flops + self.shared.flops

    def count(self, flops: float) -> None:
        """One gradient."""
        self.gradients, self._flops = self.gradients + 1, self._flops + flops

    def begin(self, texts: Sequence[str]) -> QuestionSearch:
        """Hands the scoring of these suffixes to the devices."""
        task = dataclasses.replace(self.task, words=tuple(texts))
        one = QuestionSearch(task, self.where, self.question, self.shared)
        for _ in one.steps():
            pass
        return one

    def finish(self, one: QuestionSearch) -> tuple[float, np.ndarray]:
        """Refusal margin of the question alone, and [N] of the question with each suffix."""
        scores = one.scores()
        self.prompts, self._flops = self.prompts + 1 + scores.margins_PW.size, self._flops + scores.flops
        if not np.isfinite(scores.margins_PW).all():
            raise JobError(f"the refusal margin of {self.question[:40]!r} with a suffix is not a finite number")
        return scores.original, scores.margins_PW[0]
