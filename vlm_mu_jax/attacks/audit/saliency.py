"""Which words of a question decide whether the model refuses: gradient x input, and the question without a word.

Both are changes of the refusal margin (`margin.margin`) in nats, positive where a word speaks for refusal. Removal is
exact: the same question is tokenised anew without the word. Gradient x input is the first-order effect of fading out a
token's embedding. It covers every token of the prompt at once, so the image and the template get their share.
"""

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from vlm_mu_jax.attacks.audit.audit import safety_records
from vlm_mu_jax.attacks.margin import margin, prefix
from vlm_mu_jax.attacks.margin import openings as openings_lib
from vlm_mu_jax.attacks.margin.openings import Node, Openings
from vlm_mu_jax.attacks.margin.prefix import ImageTokens, rows_with
from vlm_mu_jax.attacks.questions import SearchQuestion, search_questions
from vlm_mu_jax.data.placing import Placed, word_spans
from vlm_mu_jax.data.prompts import Images, Processor, bucket
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.statistics import proportion
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.vlm import embed
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model

_BLOCK = 32  # prompts without a word that are scored together


@dataclasses.dataclass(frozen=True)
class Salient:
    """The effects of one question's words.

    words: the words, as they stand in the question.
    margin: its refusal margin.
    gradient_W: gradient x input, summed over a word's tokens.
    removal_W: the margin of the question minus the margin without the word.
    image, template: gradient x input of the image's tokens, and of all other tokens outside the words.
    """

    question: str
    words: tuple[str, ...]
    margin: float
    gradient_W: np.ndarray
    removal_W: np.ndarray
    image: float
    template: float

    def to_dict(self) -> dict[str, Any]:
        pairs = zip(self.words, self.gradient_W.tolist(), self.removal_W.tolist(), strict=True)
        return {
            "question": self.question,
            "margin": self.margin,
            "words": [{"word": word, "gradient_x_input": g, "removal": r} for word, g, r in pairs],
            "image": self.image,
            "template": self.template,
        }


def saliency(
    model: Model,
    questions: Sequence[SearchQuestion],
    openings: Openings,
    *,
    progress: Progress | None = None,
) -> list[Salient]:
    """Scores every word of every question.

    Args:
      model: what `vlm_mu_jax.load` returns.
      openings: the refusal openings of the margin.

    Raises:
      InputError: the tokenizer does not say which characters a token stands for.
    """
    if not model.processor.tokenizer.is_fast:
        raise InputError("saliency needs a tokenizer with offsets; save the model with its fast tokenizer.json")
    loop = progress(questions, "saliency", len(questions)) if progress else questions
    return [_salient(model, question, openings.nodes) for question in loop]


def record_saliency(
    model: Model, records: Records, count: int, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Finds which words decide whether a model refuses, in some of the records' questions.

        found = vlm_mu_jax.record_saliency(vlm_mu_jax.load("runs/sft"), records, 100)
        found["removal"]["opening_first"]

    The refusal openings are found in the records' reference answers.

    Args:
      count: the most questions that are drawn, by seed.

    Returns:
      `summary`, and "openings" (texts) and "questions" (each with its words and their effects).

    Raises:
      InputError: see `saliency`.
    """
    refusals = openings_lib.of_records(records, model.processor)
    chosen = drawn(records, count, seed)
    questions = search_questions(dataclasses.replace(records, items=tuple(chosen)))
    found = saliency(model, questions, refusals, progress=progress)
    rows = [{"id": r.id, "kind": r.kind} | one.to_dict() for r, one in zip(chosen, found, strict=True)]
    texts = [model.processor.decode(ids) for ids in refusals.refusal]
    return summary(found) | {"openings": texts, "questions": rows}


def drawn(records: Records, count: int, seed: int) -> list[Record]:
    """At most `count` of the safety records, drawn by seed, in file order."""
    safety = safety_records(records)
    kept = random.Random(f"{seed}/saliency").sample(range(len(safety)), min(count, len(safety)))
    return [safety[i] for i in sorted(kept)]


def _salient(model: Model, question: SearchQuestion, nodes: tuple[Node, ...]) -> Salient:
    images = question.pixels(model.processor)
    features = prefix.image_features(model.params, images, model.config)
    ids = model.processor.prompt_ids(question.question, images, question.context)
    row = model.processor.pad([ids], length=bucket(len(ids)))
    score, by_token_T = gradient_x_input(
        model.params, row.tokens_BT, row.lengths_B, features, cfg=model.config, nodes=nodes
    )
    by_token_T = np.asarray(by_token_T)[: len(ids)]
    spans = word_spans(question.question)
    owner_T = _owners(model.processor, question, images, spans, len(ids))
    is_image_T = np.array(ids) == (-1 if model.config.image_token_id is None else model.config.image_token_id)
    return Salient(
        question=question.question,
        words=tuple(question.question[start:end] for start, end in spans),
        margin=float(score),
        gradient_W=np.array([by_token_T[owner_T == w].sum() for w in range(len(spans))], np.float64),
        removal_W=float(score) - _without(model, question, images, spans, features, nodes),
        image=float(by_token_T[is_image_T].sum()),
        template=float(by_token_T[(owner_T < 0) & ~is_image_T].sum()),
    )


@functools.partial(jax.jit, static_argnames=("cfg", "nodes"))
def gradient_x_input(
    params: Params,
    tokens_1T: Array,
    length_1: Array,
    image: ImageTokens | None,
    *,
    cfg: ModelConfig,
    nodes: tuple[Node, ...],
) -> tuple[Array, Array]:
    """The refusal margin of one prompt, and the product of its gradient with every token's embedding, float32 [T]."""
    x_1TD = embed(params, rows_with(image, tokens_1T, length_1), cfg)

    def refusal_margin(x_1TD: Array) -> Array:
        row = margin.CandidateRows(None, 0, tokens_1T, length_1, image, x_1TD)
        return margin.score(params, row, cfg=cfg, nodes=nodes)[0][0]

    score, gradient_1TD = jax.value_and_grad(refusal_margin)(x_1TD)
    return score, (gradient_1TD.astype(jnp.float32) * x_1TD.astype(jnp.float32)).sum(axis=-1)[0]


def _owners(
    processor: Processor, question: SearchQuestion, images: Images, spans: Sequence[tuple[int, int]], count: int
) -> np.ndarray:
    """Index of the word that each token of the prompt belongs to, -1 for none. A token over two is the first's."""
    text = processor.prompt_text(question.question, images, context=question.context)
    start = processor.question_at(question.question, images, question.context)
    offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) != count:
        raise InputError(f"the tokenizer gives {len(offsets)} offsets for {count} tokens; use the model's own")
    owner_T = np.full(count, -1)
    for w, (low, high) in reversed(list(enumerate(spans))):
        owner_T[[a < start + high and b > start + low for a, b in offsets]] = w
    return owner_T


def _without(
    model: Model,
    question: SearchQuestion,
    images: Images,
    spans: Sequence[tuple[int, int]],
    features: ImageTokens | None,
    nodes: tuple[Node, ...],
) -> np.ndarray:
    """Margins [W] of the question without each of its words, on the prefix cache of the whole question."""
    if not spans:
        return np.zeros(0)
    placed = [Placed(without(question.question, span)) for span in spans]
    prompts = prefix.tokenise(model.processor, question.question, images, placed, question.context)
    ids = prompts.original_ids
    row = model.processor.pad([ids], length=-(-len(ids) // 64) * 64)
    on_image = features if prompts.image_end else None
    kv = prefix.run_prefix(model.params, row.tokens_BT, row.lengths_B, on_image, cfg=model.config).kv
    margins_W = np.zeros(len(spans))
    for block in _blocks(prompts):
        whole = block.start is None
        seen = features if whole and (block.tokens_CT == model.config.image_token_id).any() else None
        rows = margin.CandidateRows(None if whole else kv, block.start or 0, block.tokens_CT, block.lengths_C, seen)
        scores_C, _ = margin.score(model.params, rows, cfg=model.config, nodes=nodes)
        real = block.index_C >= 0
        margins_W[block.index_C[real]] = np.asarray(scores_C)[real]
    return margins_W


def _blocks(prompts: prefix.Prompts) -> Iterator[prefix.Block]:
    everyone = np.arange(len(prompts.tails))
    start, shares = prefix.shared_start(prompts, everyone)
    yield from prefix.blocks(prompts, everyone[shares], start, _BLOCK)
    yield from prefix.blocks(prompts, everyone[~shares], None, _BLOCK)


def without(question: str, span: tuple[int, int]) -> str:
    """The question without the characters from start to end, and without the space that is left over."""
    before, after = question[: span[0]], question[span[1] :]
    return before + (after.lstrip(" ") if not before or before.endswith(" ") else after)


def summary(found: Sequence[Salient]) -> dict[str, Any]:
    """Summarises the questions.

    Returns: "n"; "chance", the mean of 1 / words of a question; for each method ("gradient_x_input", "removal"):
      "opening_first", how often the question's first word has the largest effect of all its words (a proportion with
      interval), "opening_share", its mean share of the absolute effects, "by_opening": word -> {"n", "effect"} (mean);
      "agreement": Spearman correlation of the two methods over all words, None where it is undefined.
    """
    found = [one for one in found if one.words]
    openings = [one.words[0].lower() for one in found]
    methods = {"gradient_x_input": [one.gradient_W for one in found], "removal": [one.removal_W for one in found]}
    pooled = [np.concatenate([[], *values]) for values in methods.values()]
    varied = all(len(effects) and np.ptp(effects) > 0 for effects in pooled)
    return {
        "n": len(found),
        "chance": float(np.mean([1 / len(one.words) for one in found])) if found else None,
        "agreement": float(stats.spearmanr(*pooled).statistic) if varied else None,
        **{name: _method(values, openings) for name, values in methods.items()},
    }


def _method(effects: Sequence[np.ndarray], openings: Sequence[str]) -> dict[str, Any]:
    absolute = [np.abs(effect_W) for effect_W in effects]
    shares = [float(one[0] / one.sum()) for one in absolute if one.sum() > 0]
    by_word = {
        word: [float(e[0]) for e, opening in zip(effects, openings, strict=True) if opening == word]
        for word, _ in Counter(openings).most_common()
    }
    return {
        "opening_first": proportion(sum(int(one.argmax() == 0) for one in absolute), len(absolute)).to_dict(),
        "opening_share": float(np.mean(shares)) if shares else None,
        "by_opening": {word: {"n": len(e), "effect": float(np.mean(e))} for word, e in by_word.items()},
    }
