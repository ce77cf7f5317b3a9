"""Exhaustive word search: which single word in a prompt makes the model answer what it refuses, or refuse what it
should answer.

Every candidate is put into every question at every position, and the model itself is asked: the score is the refusal
margin (`attack.margin`). Nothing is sampled or pruned, so the result is exact over the stated vocabulary, positions,
weights, dtype and score, and claims nothing beyond them.

A question's prompt, image included, is run once; its candidates attend to that one cache and run only the tokens that
come after the word's place (`attack.question`). Questions are independent: they go round the meshes they are given,
and finished ones are kept in a file from which a killed search continues.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.attacks import in_turn
from vlm_mu_jax.attacks.in_turn import Progress, Work
from vlm_mu_jax.attacks.margins_file import MarginsFile, Scores
from vlm_mu_jax.attacks.openings import Openings
from vlm_mu_jax.attacks.prefix import FirstPass
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.scoring import Place, QuestionSearch, SearchTask, Shared, places
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.steer import Steer


@dataclasses.dataclass(frozen=True)
class FoundWords:
    """What a search found at one position.

    words: candidates in the order given. margins_QW: refusal margin of each in each question, in nats.
    best: numbers of the universal words (best mean margin over the questions), best first. best_per_question: [Q, k]
    the same for every question alone. original_Q: margin of each unchanged question. in_full: prompts that were run
    whole because they share no prefix. flops: forward FLOPs of the whole search, all its positions together.
    """

    words: tuple[str, ...]
    margins_QW: np.ndarray
    best: np.ndarray
    best_per_question: np.ndarray
    original_Q: np.ndarray
    in_full: int
    flops: float

    @property
    def margins_W(self) -> np.ndarray:
        """Mean over the questions, float64."""
        return self.margins_QW.mean(axis=0, dtype=np.float64)


def search(
    model: Any,
    asks: Sequence[SearchQuestion],
    words: Sequence[str],
    openings: Openings,
    *,
    goal: str = "jailbreak",
    positions: Sequence[str] = ("question_start",),
    mode: str = "swap",
    top: int = 3,
    block: int = 64,
    steer: Steer | FirstPass | None = None,
    lora: dict[str, Any] | None = None,
    meshes: Sequence[Mesh] = (),
    file: MarginsFile | None = None,
    role: str = "",
    progress: Progress | None = None,
) -> dict[str, FoundWords]:
    """Scores every word in every question at every position and keeps the best; the result by position.

    Args:
      model: what `vlm_mu_jax.load` returns (params, config, processor).
      words: candidates, each once. Equal scores are ordered by place in this list.
      goal: "jailbreak" looks for the lowest margin, "over_refuse" for the highest.
      positions, mode: where and how a word is put in; see `words.place`.
      top: how many best words to return.
      block: candidates per program; the prefix cache does not grow with it.
      steer, lora: guard and adapters inside the attacked program.
      meshes: each scores questions of its own at the same time, and spreads their candidates over its data and fsdp
        axes. None: the parameters stay where they are.
      file, role: finished questions are kept there under `role`, and those it holds are not scored again.
      progress: wraps the loop over the work, in units of `block` candidates.

    Raises:
      InputError: no question or no candidate, or a prompt that is longer than the model's positions.
      JobError: a score is not a finite number.
    """
    if not asks or not words:
        raise InputError(f"the search has {len(asks)} questions and {len(words)} candidate words; it needs both")
    task = SearchTask(
        model.config,
        model.processor,
        openings.nodes,
        openings.sign(goal),
        steer,
        lora,
        tuple(words),
        tuple(positions),
        mode,
        min(top, len(words)),
        block,
    )

    def work(where: Place, key: str, ask: SearchQuestion) -> Work:
        shared = Shared(task, where, ask.pixels(task.processor))
        one = QuestionSearch(task, where, ask.question, shared)
        yield from one.steps()
        scores = one.scores()
        return _finite(dataclasses.replace(scores, flops=scores.flops + shared.flops), task, ask)

    keys = [ask.key(f"{role} {goal}") for ask in asks]
    each = (1 + len(task.positions) * len(words)) * (2 if isinstance(steer, FirstPass) else 1)
    scores = in_turn.results(
        dict(zip(keys, asks, strict=True)),
        work,
        places(model.params, task, meshes),
        file=file,
        progress=progress,
        label=" ".join(filter(None, (goal, role, "words"))),
        each=each,
        unit=block,
    )
    return _found(task, [scores[key] for key in keys])


def _finite(scores: Scores, task: SearchTask, ask: SearchQuestion) -> Scores:
    bad = np.argwhere(~np.isfinite(scores.margins_PW))
    if len(bad) or not np.isfinite(scores.original):
        word = f" with {task.words[bad[0][1]]!r}" if len(bad) else ""
        raise JobError(f"the refusal margin of {ask.question[:40]!r}{word} is not a finite number")
    return scores


def _found(task: SearchTask, scores: Sequence[Scores]) -> dict[str, FoundWords]:
    found = {}
    original_Q, flops = np.array([s.original for s in scores]), sum(s.flops for s in scores)
    for p, position in enumerate(task.positions):
        margins_QW = np.stack([s.margins_PW[p] for s in scores])
        best = np.argsort(-task.sign * margins_QW.mean(axis=0, dtype=np.float64), kind="stable")[: task.top]
        each = np.stack([s.best_PK[p] for s in scores])
        in_full = int(sum(s.in_full_P[p] for s in scores))
        found[position] = FoundWords(task.words, margins_QW, best, each, original_Q, in_full, flops)
    return found
