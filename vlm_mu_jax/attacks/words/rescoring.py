"""Scores the winners again in float32, one whole prompt at a time.

A search in bfloat16 ranks by scores that carry rounding noise. These scores use no batch, no shared cache and no low
precision. Where two words are further apart than the largest deviation between both, their order is not an accident of
rounding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.attacks import margin, prefix, prompt_blocks
from vlm_mu_jax.attacks.prefix import FirstPass, ImageTokens
from vlm_mu_jax.attacks.prompt_blocks import Block
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.search_run import SearchTarget
from vlm_mu_jax.attacks.words.search import FoundWords
from vlm_mu_jax.data.placing import Placed, place
from vlm_mu_jax.data.prompts import Images, Processor
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.model.vlm import cast
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model


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
        if target.steer.text_only:
            images, context = (), context and context.without_images()
        asked = _rows(model.processor, question.question, images, [Placed(one.question) for one in placed], context)
        inputs = [_prompt(model, row, features) for row in asked]
        states = [margin.last_states(model.params, one, cfg=model.config, lora=target.lora) for one in inputs]
        guards = [target.steer.steer_of(np.asarray(one)) for one in states]
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
    prompts = prompt_blocks.tokenise(processor, question, images, placed, context)
    return [next(prompt_blocks.blocks(prompts, np.array([i]), None, 1)) for i in range(len(placed))]


def _prompt(model: Model, row: Block, features: ImageTokens | None) -> margin.CandidateRows:
    with_image = features is not None and (row.tokens_CT == model.config.image_token_id).any()
    return margin.CandidateRows(None, 0, row.tokens_CT, row.lengths_C, features if with_image else None)


def summary(found: FoundWords, best: Sequence[int], float32_QM: np.ndarray) -> dict[str, Any]:
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
