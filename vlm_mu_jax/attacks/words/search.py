"""Exhaustive word search: which single word in a prompt makes the model answer what it refuses, or refuse what it
should answer.

Every candidate is put into every question at every position, and the model itself is asked: the score is the refusal
margin (`margin.margin`). Nothing is sampled or pruned, so the result is exact over the stated vocabulary, positions,
weights, dtype and score, and claims nothing beyond them.

A question's prompt, image included, is run once; its candidates attend to that one cache and run only the tokens that
come after the word's place (`margin.scoring`). Questions are independent: they go round the meshes they are given,
and finished ones are kept in a file from which a killed search continues.

A search in bfloat16 ranks by scores that carry rounding noise. `rescore` scores the winners again in float32, one whole
prompt at a time, with no batch, no shared cache and no low precision. Where two words are further apart than the
largest deviation between both, their order is not an accident of rounding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.attacks.margin import margin, prefix, search_run
from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.prefix import Block, ImageTokens
from vlm_mu_jax.attacks.margin.scoring import Place, QuestionSearch, SearchTask, Shared, places
from vlm_mu_jax.attacks.margin.search_run import Counting, SearchRun, SearchTarget, WordScores, Work
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.placing import Placed, place
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.vlm import cast
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How words are searched.

    Attributes:
      positions: where a word is put, some of `data.placing.POSITIONS`.
      mode: "swap" replaces a word of the question, "insert" adds one; see `data.placing.place`.
      top: how many best words are kept.
      block: candidates scored by one program. The prefix cache does not grow with it.
    """

    positions: Sequence[str] = ("question_start",)
    mode: str = "swap"
    top: int = 3
    block: int = 64


@dataclasses.dataclass(frozen=True)
class FoundWords:
    """What a search found at one position.

    Attributes:
      words: the candidates, in the order given.
      margins_QW: float32 [Q, W], the refusal margin of every question with every word, in nats.
      best: numbers of the words with the best mean margin over the questions, best first.
      best_per_question: int [Q, top], the best words of every question alone; -1 where there are fewer.
      original_Q: float [Q], the margins of the unchanged questions.
      in_full: how many prompts were run whole because they share no prefix with their question.
      flops: forward FLOPs of the whole search, all its positions together.
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
    model: Model,
    questions: Sequence[SearchQuestion],
    words: Sequence[str],
    target: SearchTarget,
    options: SearchOptions = SearchOptions(),
    run: SearchRun = SearchRun(),
    *,
    role: str = "",
) -> dict[str, FoundWords]:
    """Scores every word in every question at every position, and keeps the best.

    Args:
      model: what `vlm_mu_jax.load` returns.
      words: the candidates, each once. Equal scores are ordered by place in this list.
      run: its meshes spread a question's candidates over their data and fsdp axes.
      role: tells searches of one run apart in its file, for example "reference" for another model.

    Returns:
      What was found, by position.

    Raises:
      InputError: no question or no candidate, or a prompt that is longer than the model's positions.
      JobError: a score is not a finite number.
    """
    if not questions or not words:
        raise InputError(f"the search has {len(questions)} questions and {len(words)} candidate words; it needs both")
    task = SearchTask(
        model.config,
        model.processor,
        target,
        tuple(words),
        tuple(options.positions),
        options.mode,
        min(options.top, len(words)),
        options.block,
    )

    def work(where: Place, key: str, question: SearchQuestion) -> Work:
        shared = Shared(task, where, question.pixels(task.processor), question.context)
        one = QuestionSearch(task, where, question.question, shared)
        yield from one.steps()
        scores = one.scores()
        return _finite(dataclasses.replace(scores, flops=scores.flops + shared.flops), task, question)

    keys = [question.key(f"{role} {target.goal}") for question in questions]
    passes = 2 + target.steer.erased_words if isinstance(target.steer, FirstPass) else 1
    each = (1 + len(task.positions) * len(words)) * passes
    label = " ".join(filter(None, (target.goal, role, "words")))
    scores = search_run.results(
        dict(zip(keys, questions, strict=True)),
        work,
        places(model.params, task, run.meshes),
        run,
        Counting(label, each, options.block),
    )
    return _found(task, [scores[key] for key in keys])


def _finite(scores: WordScores, task: SearchTask, question: SearchQuestion) -> WordScores:
    bad = np.argwhere(~np.isfinite(scores.margins_PW))
    if len(bad) or not np.isfinite(scores.original):
        word = f" with {task.words[bad[0][1]]!r}" if len(bad) else ""
        raise JobError(f"the refusal margin of {question.question[:40]!r}{word} is not a finite number")
    return scores


def _found(task: SearchTask, scores: Sequence[WordScores]) -> dict[str, FoundWords]:
    found = {}
    original_Q, flops = np.array([s.original for s in scores]), sum(s.flops for s in scores)
    for p, position in enumerate(task.positions):
        margins_QW = np.stack([s.margins_PW[p] for s in scores])
        best = np.argsort(-task.sign * margins_QW.mean(axis=0, dtype=np.float64), kind="stable")[: task.top]
        each = np.stack([s.best_PK[p] for s in scores])
        in_full = int(sum(s.in_full_P[p] for s in scores))
        found[position] = FoundWords(task.words, margins_QW, best, each, original_Q, in_full, flops)
    return found


def rescore(
    model: Model,
    questions: Sequence[SearchQuestion],
    words: Sequence[str],
    target: SearchTarget,
    *,
    position: str,
    mode: str,
    progress: Progress | None = None,
) -> np.ndarray:
    """Refusal margins [Q, words] in float32 at batch 1, every product at the highest precision the device has.

    Needs the parameters a second time, in float32.

    Args:
      words: the winners, put in at `position` by `mode`; see `data.placing.place`.
    """
    lora = None if target.lora is None else cast(target.lora, np.float32)
    target = dataclasses.replace(target, lora=lora)
    exact = dataclasses.replace(model, params=cast(model.params, np.float32))
    margins = np.zeros((len(questions), len(words)), np.float32)
    loop = list(enumerate(questions))
    with jax.default_matmul_precision("highest"):
        for q, question in progress(loop, "float32 scores", len(loop)) if progress else loop:
            placed = [place(question.question, word, position, mode) for word in words]
            margins[q] = _margins(exact, question, placed, target)
    return margins


def _margins(model: Model, question: SearchQuestion, placed: list[Placed], target: SearchTarget) -> list[float]:
    images, context = question.pixels(model.processor), question.context
    features = prefix.image_features(model.params, images, model.config)
    rows = _rows(model.processor, question.question, images, placed, context)
    guards = [target.steer] * len(rows)
    if isinstance(target.steer, FirstPass):
        seen, context = target.steer.reads(images, context)
        guards = []
        for one in placed:
            read = [Placed(text) for text in target.steer.texts(one.question)]
            inputs = [
                _prompt(model, row, features) for row in _rows(model.processor, question.question, seen, read, context)
            ]
            decided = [target.steer.decided(model.params, row, model.config, target.lora) for row in inputs]
            guards.append(decided[0].replace(gate_LB=np.any([steer.gate_LB for steer in decided], axis=0)))
    prompts = [_prompt(model, row, features) for row in rows]
    scores = [
        margin.score(model.params, one, cfg=model.config, nodes=target.nodes, steer=guard, lora=target.lora)[0]
        for one, guard in zip(prompts, guards, strict=True)
    ]
    return [float(score[0]) for score in scores]


def _rows(
    processor: Processor, question: str, images: Images, placed: list[Placed], context: Context | None
) -> list[Block]:
    """Each prompt as a block of one row, whole."""
    prompts = prefix.tokenise(processor, question, images, placed, context)
    return [next(prefix.blocks(prompts, np.array([i]), None, 1)) for i in range(len(placed))]


def _prompt(model: Model, row: Block, features: ImageTokens | None) -> margin.CandidateRows:
    with_image = features is not None and (row.tokens_CT == model.config.image_token_id).any()
    return margin.CandidateRows(None, 0, row.tokens_CT, row.lengths_C, features if with_image else None)


def against_float32(found: FoundWords, best: Sequence[int], float32_QM: np.ndarray) -> dict[str, Any]:
    """How far the winners' scores are from those in float32.

    Returns: "scores": word, its mean margin as searched and in float32; "max_deviation": over questions and words;
    "order_holds": whether float32 ranks these words in the same order; "gap": the smallest distance between the mean
    margins of two words that follow each other; all in nats.
    """
    searched_QM, means = found.margins_QW[:, best], float32_QM.mean(axis=0, dtype=np.float64)
    old = searched_QM.mean(axis=0, dtype=np.float64)
    scores = [
        {"word": found.words[i], "score": float(a), "float32": float(b)}
        for i, a, b in zip(best, old, means, strict=True)
    ]
    gaps = np.abs(np.diff(old))
    return {
        "scores": scores,
        "max_deviation": float(np.abs(searched_QM - float32_QM).max()),
        "gap": float(gaps.min()) if len(gaps) else None,
        "order_holds": bool((np.argsort(means, kind="stable") == np.argsort(old, kind="stable")).all()),
    }
