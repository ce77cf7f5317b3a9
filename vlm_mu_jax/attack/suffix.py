"""Suffix attacks: text behind the question, changed token by token until the refusal margin gives way.

A step proposes many suffixes, from gradients (`attack.gcg`) or blindly (`attack.random_search`). Each is scored as the
string that a user would send, tokenised anew as a whole, by the machinery of the word search: one prefix per question,
guards inside. A proposal whose text is not tokenised to the proposed ids is dropped before it is scored, so that
a step changes the tokens it means to change. The best one replaces the suffix where it is better.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.attack.guards import FirstPass
from vlm_mu_jax.attack.margins_file import MarginsFile
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.question import Place, QuestionSearch, Shared, Task
from vlm_mu_jax.attack.search import GOALS, Ask, Progress
from vlm_mu_jax.attack.words import place
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.decoder import Steer

_POSITION, _MODE = "question_end", "insert"  # of `words.place`: what a suffix is
_DRAWS = 64  # random suffixes drawn at a time
_KEPT = 4  # prefix caches of a question under different gates


@dataclasses.dataclass(frozen=True)
class Settings:
    """steps: at most so many. candidates: prompts scored in a step; the unchanged question is one of them. start: text
    the suffix starts with; "" = random tokens, `length` of them. top: tokens per place that gradients propose. stop: a
    question's search ends when its margin has passed 0 by so many nats in the goal's direction. block: candidates per
    program."""

    steps: int = 50
    candidates: int = 128
    start: str = ""
    length: int = 12
    top: int = 64
    stop: float = 3.0
    block: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Found:
    """One question's suffix. margin: refusal margin with it, in nats; original: of the question alone; start: with the
    suffix the search began with. curve: best margin after each step. tokens: of the suffix. prompts: scored, gradients:
    made, flops: of both. control: a random suffix of as many tokens."""

    text: str
    margin: float
    original: float
    start: float
    curve: tuple[float, ...]
    tokens: int
    prompts: int
    gradients: int
    flops: float
    control: str

    to_dict = dataclasses.asdict

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "Found":
        return cls(**{**row, "curve": tuple(row["curve"])})


@dataclasses.dataclass(frozen=True)
class Slots:
    """A prompt with a suffix as token ids, one placeholder per image: head + ids + tail, `ids` being the suffix's."""

    head: tuple[int, ...]
    ids: tuple[int, ...]
    tail: tuple[int, ...]


class Scorer:
    """Scores suffixes of one question, and counts what that costs (`prompts`, `gradients`, `flops`)."""

    def __init__(self, task: Task, where: Place, ask: Ask) -> None:
        self.task, self.where, self.question = task, where, ask.question
        self.shared = Shared(task, where, ask.pixels(task.processor), _KEPT)
        self.prompts, self.gradients, self._flops = 0, 0, 0.0

    @property
    def flops(self) -> float:
        return self._flops + self.shared.flops

    def count(self, flops: float) -> None:
        """One gradient."""
        self.gradients, self._flops = self.gradients + 1, self._flops + flops

    def margins(self, texts: Sequence[str]) -> tuple[float, np.ndarray]:
        """Refusal margin of the question alone, and [N] of the question with each suffix."""
        task = dataclasses.replace(self.task, words=tuple(texts))
        one = QuestionSearch(task, self.where, self.question, self.shared)
        for _ in one.steps():
            pass
        scores = one.scores()
        self.prompts, self._flops = self.prompts + 1 + len(texts), self._flops + scores.flops
        if not np.isfinite(scores.margins_PW).all():
            raise JobError(f"the refusal margin of {self.question[:40]!r} with a suffix is not a finite number")
        return scores.original, scores.margins_PW[0]

    def slots(self, text: str) -> Slots:
        return slots(self.task.processor, self.question, text, len(self.shared.images))


Propose = Callable[[Scorer, Slots, np.ndarray, Settings, np.random.Generator], np.ndarray]
# (scorer, suffix now, allowed ids, settings, rng) -> proposed ids [N, S]


def search(
    model: Any,
    asks: Sequence[Ask],
    openings: Openings,
    propose: Propose,
    use: Settings,
    *,
    goal: str = "jailbreak",
    steer: Steer | FirstPass | None = None,
    lora: dict[str, Any] | None = None,
    mesh: Any = None,
    file: MarginsFile | None = None,
    progress: Progress | None = None,
) -> list[Found]:
    """A suffix for every question, each for itself; arguments as in `attack.search.search`.

    Raises:
      InputError: the tokenizer has no text for a suffix, or a prompt is longer than the model's positions.
      JobError: a score is not a finite number.
    """
    task = Task(
        model.config, model.processor, (), (_POSITION,), _MODE, openings.nodes, GOALS[goal], 1,
        min(use.block, use.candidates), steer, lora,
    )  # fmt: skip
    where, allowed = Place(model.params, task, mesh), vocabulary(model.processor, model.config.text.V)
    done: dict[str, Found] = {}
    keys = [ask.key(goal) for ask in asks]
    ticks = _all(task, where, dict(zip(keys, asks, strict=True)), allowed, propose, use, file, done)
    for _ in progress(ticks, f"{goal} suffixes", len(set(keys)) * use.steps) if progress else ticks:
        pass
    return [done[key] for key in keys]


def _all(
    task: Task, where: Place, asks: dict[str, Ask], allowed: np.ndarray, propose: Propose, use: Settings,
    file: MarginsFile | None, done: dict[str, Found],
) -> Iterator[None]:  # fmt: skip
    """Fills `done`; yields `use.steps` times per question, whether it needs them or not."""
    for key, ask in asks.items():
        left = use.steps
        if file is not None and (known := file.get(key)) is not None:
            done[key] = known
        else:
            rng = np.random.default_rng([use.seed, zlib.crc32(key.encode())])
            for step in _one(Scorer(task, where, ask), allowed, propose, use, rng):
                if isinstance(step, Found):
                    done[key] = step
                else:
                    left -= 1
                    yield
            if file is not None:
                file.add(key, done[key])
        yield from [None] * left


def _one(
    scorer: Scorer, allowed: np.ndarray, propose: Propose, use: Settings, rng: np.random.Generator
) -> Iterator[Found | None]:
    """Yields None after every step and the result at the end."""
    task, sign = scorer.task, scorer.task.sign
    text = use.start.strip() or random_suffix(scorer, allowed, use.length, rng)
    now, curve = scorer.slots(text), []
    original, (start,) = scorer.margins([text])
    margin = start
    for _ in range(use.steps):
        if sign * margin >= use.stop:
            break
        proposed_NS = propose(scorer, now, allowed, use, rng)
        texts, rows = surviving(task.processor, scorer.question, now, proposed_NS, len(scorer.shared.images))
        if texts:
            _, margins_N = scorer.margins(texts)
            best = int(np.argmax(sign * margins_N))
            if sign * margins_N[best] > sign * margin:
                text, margin = texts[best], margins_N[best]
                now = dataclasses.replace(now, ids=tuple(int(i) for i in proposed_NS[rows[best]]))
        curve.append(float(margin))
        yield None
    control = random_suffix(scorer, allowed, len(now.ids), rng)
    yield Found(
        text, float(margin), original, float(start), tuple(curve), len(now.ids), scorer.prompts, scorer.gradients,
        scorer.flops, control,
    )  # fmt: skip


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
    return place(question, text, _POSITION, _MODE).question


def slots(processor: Processor, question: str, text: str, images: int) -> Slots:
    """Where a suffix stands in its prompt: what the prompt with it does not share with the prompt without it."""
    bare, full = processor.short_ids([(question, ""), (with_suffix(question, text), "")], images)
    most = min(len(bare), len(full))
    head = next((i for i in range(most) if bare[i] != full[i]), most)
    tail = next((i for i in range(most - head) if bare[-1 - i] != full[-1 - i]), most - head)
    return Slots(full[:head], full[head : len(full) - tail], full[len(full) - tail :])


def surviving(
    processor: Processor, question: str, now: Slots, proposed_NS: np.ndarray, images: int
) -> tuple[list[str], list[int]]:
    """(texts, their rows): the proposals whose text is tokenised to their very ids, each text once."""
    texts = _texts(processor, proposed_NS)
    rows = processor.short_ids([(with_suffix(question, text), "") for text in texts], images) if texts else []
    kept: dict[str, int] = {}
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if text and row == (*now.head, *proposed_NS[i].tolist(), *now.tail):
            kept.setdefault(text, i)
    return list(kept), list(kept.values())


def random_suffix(scorer: Scorer, allowed: np.ndarray, length: int, rng: np.random.Generator) -> str:
    """Text of random tokens that is `length` tokens long behind the question, or as near to it as a draw comes."""
    texts = [text for text in _texts(scorer.task.processor, rng.choice(allowed, (_DRAWS, length))) if text]
    return min(texts, key=lambda text: abs(len(scorer.slots(text).ids) - length))


def _texts(processor: Processor, ids_NS: np.ndarray) -> list[str]:
    """Suffixes as they stand behind a question; one with the image placeholder's text in it is empty."""
    texts = processor.tokenizer.batch_decode(ids_NS.tolist(), clean_up_tokenization_spaces=False)
    image = processor.cfg.image_token_id
    mark = None if image is None else processor.tokenizer.convert_ids_to_tokens(image)
    return ["" if mark and mark in text else text.strip() for text in texts]
