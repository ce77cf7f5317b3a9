"""Suffix attacks: text behind the question, changed token by token until the refusal margin gives way.

A step proposes many suffixes, from gradients (`gcg.propose`) or at random (`suffix_prompts.random_stretches`). Each is
scored as the string that a user would send, tokenised anew as a whole, by the machinery of the word search: one prefix
per question, guards inside. A proposal whose text is not tokenised to the proposed ids is dropped before it is scored,
so that a step changes the tokens it means to change. The best one replaces the suffix where it is better.

A suffix is searched for one question, or for several together (`universal`), as in Zou et al. 2023 (arXiv 2307.15043,
algorithm 2; llm-attacks/llm-attacks@llm_attacks/base/attack_manager.py, ProgressiveMultiPromptAttack): a question joins
the search when the suffix breaks all that joined before it.
"""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.attacks.margin import search_run
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.scoring import Place, SearchTask, places
from vlm_mu_jax.attacks.margin.search_run import Counting, SearchRun, SearchTarget, Work
from vlm_mu_jax.attacks.measure import Attempt, Attempts, Comparison
from vlm_mu_jax.attacks.method import MeasuredProposal, Proposal, Setting, report
from vlm_mu_jax.attacks.methods import gcg, suffix_prompts
from vlm_mu_jax.attacks.methods.suffix_prompts import Scorer, Slots, SuffixOptions, with_suffix
from vlm_mu_jax.attacks.questions import SearchQuestion, search_questions
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class FoundSuffix:
    """A suffix, and what it does to the questions that joined its search.

    Margins are in nats and of what is searched for: of refusing, or of answering as wanted (`Openings.wanted`).

    Attributes:
      text: the suffix; ids: its tokens behind the first question.
      margins: of the questions with it, in the order in which they joined; originals: of the questions alone.
      start: the first question's margin with the suffix that the search began with.
      curve: the mean margin after each step; joined: over how many questions.
      prompts, gradients, flops: how many were scored and made, and what both cost.
      control: a random suffix of as many tokens. None as long as the search goes on.
    """

    text: str
    ids: tuple[int, ...]
    margins: tuple[float, ...]
    originals: tuple[float, ...]
    start: float
    curve: tuple[float, ...] = ()
    joined: tuple[int, ...] = ()
    prompts: int = 0
    gradients: int = 0
    flops: float = 0.0
    control: str | None = None

    to_dict = dataclasses.asdict

    @property
    def margin(self) -> float:
        return float(np.mean(self.margins))

    @property
    def original(self) -> float:
        return float(np.mean(self.originals))

    @property
    def finished(self) -> bool:
        return self.control is not None

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "FoundSuffix":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})


Propose = Callable[
    [Sequence[tuple[Scorer, Slots]], tuple[int, ...], np.ndarray, SuffixOptions, np.random.Generator], np.ndarray
]
# (questions to break, with the suffix in each; its ids; allowed ids; settings; rng) -> proposed ids [N, S]


def search(
    model: Model,
    questions: Sequence[SearchQuestion],
    target: SearchTarget,
    propose: Propose,
    options: SuffixOptions,
    run: SearchRun = SearchRun(),
) -> list[FoundSuffix]:
    """A suffix for every question, each for itself.

    The run's file is written after every step, so that a killed search continues with the step it was at.

    Args:
      model: what `vlm_mu_jax.load` returns.
      propose: makes the suffixes that a step tries: `gcg.propose` or `suffix_prompts.random_stretches`.

    Raises:
      InputError: the tokenizer has no text for a suffix, or a prompt is longer than the model's positions.
      JobError: a score is not a finite number.
    """
    keys = [question.key(target.goal) for question in questions]
    task = _task(model, target, options)
    where = [[place] for place in places(model.params, task, run.meshes)]
    items = {key: (question,) for key, question in zip(keys, questions, strict=True)}
    found = _Searches(task, propose, options).results(items, where, run, f"{target.goal} suffixes")
    return [found[key] for key in keys]


def universal(
    model: Model,
    questions: Sequence[SearchQuestion],
    target: SearchTarget,
    propose: Propose,
    options: SuffixOptions,
    run: SearchRun = SearchRun(),
    *,
    shots: int = 1,
) -> list[FoundSuffix]:
    """`shots` suffixes, each from another random start for all the questions together, in whose order they join.

    Every question that has joined keeps its prefix cache. Arguments and errors as in `search`.
    """
    together = hashlib.sha256("".join(question.key(target.goal) for question in questions).encode()).hexdigest()
    task = _task(model, target, options)
    items = {f"{together} {shot}": tuple(questions) for shot in range(shots)}
    where = [places(model.params, task, run.meshes)]
    label = f"universal {target.goal} suffix"
    return list(_Searches(task, propose, options).results(items, where, run, label).values())


def _task(model: Model, target: SearchTarget, options: SuffixOptions) -> SearchTask:
    return SearchTask(
        model.config,
        model.processor,
        target,
        positions=(suffix_prompts.POSITION,),
        mode=suffix_prompts.MODE,
        block=min(options.block, options.candidates),
    )


class _Searches:
    """What all suffixes of one call share."""

    def __init__(self, task: SearchTask, propose: Propose, options: SuffixOptions) -> None:
        self.task, self.propose, self.options = task, propose, options
        self.allowed = suffix_prompts.vocabulary(task.processor, task.cfg.text.V)

    def results(
        self,
        items: Mapping[str, Sequence[SearchQuestion]],
        where: Sequence[Sequence[Place]],
        run: SearchRun,
        label: str,
    ) -> dict[str, FoundSuffix]:
        """One suffix for every item. where: the places that share the questions of an item."""

        def work(places: Sequence[Place], key: str, questions: Sequence[SearchQuestion]) -> Work:
            one, file = _Search(self, places, questions, key), run.file
            return one.run() if file is None else one.run(file.get(key), functools.partial(file.add, key))

        counting = Counting(label, self.options.steps)
        return search_run.results(items, work, where, run, counting, finished=lambda found: found.finished)


class _Search:
    """One suffix for all of `questions`. Their work goes round `places`."""

    def __init__(
        self, about: _Searches, places: Sequence[Place], questions: Sequence[SearchQuestion], key: str
    ) -> None:
        self._task, self._places, self._questions = about.task, places, questions
        self._allowed, self._propose, self._use, self._key = about.allowed, about.propose, about.options, key
        self._scorers: list[Scorer] = []
        text = self._use.start.strip() or self._random(self._use.length, 0)
        first = questions[0]
        self._first = suffix_prompts.slots(
            self._task.processor, first.question, text, first.images, context=first.context
        )
        self._found = FoundSuffix(text, self._first.ids, (), (), np.nan)
        self._before = self._found  # what an earlier run of this search has spent

    def run(self, known: FoundSuffix | None = None, keep: Callable[[FoundSuffix], Any] | None = None) -> Work:
        """known: where an earlier run has got to. keep: gets what is found after every step."""
        if known is not None:
            self._found = self._before = known
            self._first = dataclasses.replace(self._first, ids=known.ids)
            self._scorers = [self._scorer(i) for i in range(len(known.margins))]
            yield len(known.curve)
        while len(self._found.curve) < self._use.steps and self._grow():
            yield from self._step()
            if keep is not None:
                keep(self._spent())
            yield 1
        yield self._use.steps - len(self._found.curve)
        control = self._random(len(self._found.ids), self._use.steps + 1)
        return dataclasses.replace(self._spent(), control=control)

    def _random(self, length: int, draw: int) -> str:
        """A random suffix behind the first question."""
        first = self._questions[0]
        return suffix_prompts.random_suffix(
            self._task.processor, first.question, first.images, self._allowed, length, self._rng(draw), first.context
        )

    def _rng(self, draw: int) -> np.random.Generator:
        """Draws depend on seed, questions and step alone: a continued search makes those of an uninterrupted one."""
        return np.random.default_rng([self._use.seed, zlib.crc32(self._key.encode()), draw])

    def _scorer(self, i: int) -> Scorer:
        return Scorer(self._task, self._places[i % len(self._places)], self._questions[i])

    def _grow(self) -> bool:
        """Lets questions join while all that have joined are broken; whether one is left to break."""
        while not self._left() and len(self._scorers) < len(self._questions):
            scorer = self._scorer(len(self._scorers))
            original, (margin,) = scorer.finish(scorer.begin([self._found.text]))
            self._scorers.append(scorer)
            now = self._found
            self._found = dataclasses.replace(
                now,
                margins=(*now.margins, float(margin)),
                originals=(*now.originals, original),
                start=now.start if now.margins else float(margin),
            )
        return bool(self._left())

    def _left(self) -> list[int]:
        """Numbers of the questions that have joined and are not broken."""
        sign = self._task.sign
        return [i for i, margin in enumerate(self._found.margins) if sign * margin < self._use.stop]

    def _step(self) -> Work:
        task, rng = self._task, self._rng(1 + len(self._found.curve))
        proposed_NS = self._propose(self._open(), self._found.ids, self._allowed, self._use, rng)
        first = self._questions[0]
        texts, rows = suffix_prompts.surviving(
            task.processor, first.question, self._first, proposed_NS, first.images, first.context
        )
        now = self._found
        if texts:
            running = [scorer.begin(texts) for scorer in self._scorers]
            yield 0
            scores = [scorer.finish(one)[1] for scorer, one in zip(self._scorers, running, strict=True)]
            margins_NQ = np.stack(scores, axis=1)
            best = max(range(len(texts)), key=lambda n: self._gain(margins_NQ[n]))
            if self._gain(margins_NQ[best]) > self._gain(np.array(now.margins)):
                ids = tuple(int(i) for i in proposed_NS[rows[best]])
                now = dataclasses.replace(now, text=texts[best], ids=ids, margins=tuple(margins_NQ[best].tolist()))
                self._first = dataclasses.replace(self._first, ids=ids)
        self._found = dataclasses.replace(now, curve=(*now.curve, now.margin), joined=(*now.joined, len(now.margins)))

    def _open(self) -> list[tuple[Scorer, Slots]]:
        """The questions that are left to break, the suffix in each. One behind which the suffix has other ids is left
        out: it is scored like the others, but its gradient is about other tokens."""
        task, text = self._task, self._found.text
        found = []
        for i in self._left():
            here = self._first
            if i > 0:
                one = self._questions[i]
                here = suffix_prompts.aligned(task.processor, one.question, text, here, one.images, one.context)
            if here is not None:
                found.append((self._scorers[i], here))
        return found or [(self._scorers[0], self._first)]

    def _gain(self, margins_Q: np.ndarray) -> tuple[float, float]:
        """What a step wants to be large: the questions' mean, of which none is given more than it takes to break it;
        between equals, the mean as it is."""
        gain_Q = self._task.sign * margins_Q
        return float(np.minimum(gain_Q, self._use.stop).mean()), float(gain_Q.mean())

    def _spent(self) -> FoundSuffix:
        """What is found, with all that it has cost."""
        before, scorers = self._before, self._scorers
        return dataclasses.replace(
            self._found,
            prompts=before.prompts + sum(one.prompts for one in scorers),
            gradients=before.gradients + sum(one.gradients for one in scorers),
            flops=before.flops + sum(one.flops for one in scorers),
        )


PROPOSE = {"gcg": gcg.propose, "random": suffix_prompts.random_stretches}


@dataclasses.dataclass(frozen=True)
class SuffixAttack:
    """A suffix behind the question, tried on the questions it was searched on and on all verification questions.

    Attributes:
      by: "gcg" (by gradient) or "random" (blindly); how a step's suffixes are proposed.
      openings: of the answers that are to become unlikely, or likely where they are `wanted`.
      universal: searches K suffixes for all search questions together instead of one for each question.
    """

    by: str
    openings: Openings
    options: SuffixOptions = SuffixOptions()
    universal: bool = False

    @property
    def name(self) -> str:
        return f"{self.by}_universal" if self.universal else self.by

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """The best suffixes on verification questions, beside each search question under its own."""
        for goal in setting.draw.goals:
            yield self._together(setting, goal) if self.universal else self._each(setting, goal)

    def search(self, setting: Setting) -> None:
        """Searches a suffix for each question of this job's share."""
        if self.universal:
            raise InputError("--universal searches all questions together; leave out --shard")
        for goal in setting.draw.goals:
            self._searched(setting, goal, setting.shared_out(setting.to_search(goal)))

    def _searched(self, setting: Setting, goal: str, records: Records) -> list[FoundSuffix]:
        target = setting.target(self.openings, goal)
        return search(setting.model, search_questions(records), target, PROPOSE[self.by], self.options, setting.run)

    def _each(self, setting: Setting, goal: str) -> Proposal:
        records, target = setting.to_search(goal), setting.target(self.openings, goal)
        found = self._searched(setting, goal, records)
        ranked = sorted(found, key=lambda one: -target.sign * (one.margin - one.original))
        own, own_null = (
            {r.id: _suffixed(r.question, [text]) for r, text in zip(records, texts, strict=True)}
            for texts in _texts(found)
        )
        entries = [{"id": r.id, **_entry(one)} for r, one in zip(records, found, strict=True)]
        best = ranked[: setting.draw.shots]
        return self._proposal(setting, goal, best, "per_question", (records, own, own_null), entries)

    def _together(self, setting: Setting, goal: str) -> Proposal:
        records, target, shots = setting.to_search(goal), setting.target(self.openings, goal), setting.draw.shots
        questions = search_questions(records)
        found = universal(setting.model, questions, target, PROPOSE[self.by], self.options, setting.run, shots=shots)
        entries = [{"questions": len(records), **_entry(one)} for one in found]
        own = (records, *_everywhere(records, found))
        return self._proposal(setting, goal, found, "on_search_questions", own, entries)

    def _proposal(
        self,
        setting: Setting,
        goal: str,
        best: Sequence[FoundSuffix],
        own_name: str,
        own: tuple[Records, Attempts, Attempts],
        entries: list[dict[str, Any]],
    ) -> Proposal:
        others = setting.to_verify(goal)
        names, label = (self.name, f"{self.name}_control"), f"{goal} {self.name}"
        main = Comparison(others, *_everywhere(others, best), names, f"{label} transfer")
        return Proposal(goal, main, {own_name: Comparison(*own, names, f"{label} own", searched=True)}, entries)

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        content = report(self.name, "random suffixes of as many tokens", self.openings, setting, measured)
        return content | {"search": dataclasses.asdict(self.options)}


def _suffixed(question: str, texts: Sequence[str]) -> list[Attempt]:
    return [Attempt(text, with_suffix(question, text)) for text in texts]


def _everywhere(records: Records, found: Sequence[FoundSuffix]) -> tuple[Attempts, Attempts]:
    """All of these suffixes behind every question, and their controls."""
    attack, control = ({r.id: _suffixed(r.question, texts) for r in records} for texts in _texts(found))
    return attack, control


def _texts(found: Sequence[FoundSuffix]) -> tuple[list[str], list[str]]:
    return [one.text for one in found], [one.control for one in found]


def _entry(found: FoundSuffix) -> dict[str, Any]:
    """One search for the file: what it did step by step, and question by question, stays in NAME.margins.jsonl."""
    row = {name: value for name, value in found.to_dict().items() if not isinstance(value, tuple)}
    row |= {"margin": found.margin, "original": found.original, "joined": len(found.margins)}
    return row | {"tokens": len(found.ids), "steps": len(found.curve)}
