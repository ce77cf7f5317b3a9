"""Exhaustive one-word search: which word at the start of a question makes the model refuse, or stops it from refusing.

Every candidate is put into every question, and the model itself is asked: the score is the refusal margin, the
log-odds that the answer starts with a refusal opening. Nothing is sampled or pruned, so the result is exact over the
stated vocabulary, position, weights, dtype and score, and claims nothing beyond them. Image features are computed once
per question. Candidates run in blocks of fixed shape, sorted by their number of tokens; best words are kept on the
device and come back in one transfer.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.attack.flops import decoder_flops, vision_flops
from vlm_mu_jax.attack.openings import Node, Openings
from vlm_mu_jax.attack.words import open_with
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.decoder import Steer
from vlm_mu_jax.model.llava import Batch, encode_images, forward, logits_of
from vlm_mu_jax.model.params import Params

Progress = Callable[[Iterable, str, int | None], Iterable]
GOALS = {"jailbreak": -1.0, "over_refuse": 1.0}  # sign of the margin that the goal wants to be large


@dataclasses.dataclass(frozen=True)
class Target:
    """The questions of a search. images: how many each has (0 or 1). features_QPD: their projected tokens, or None."""

    questions: tuple[str, ...]
    images: tuple[int, ...]
    features_QPD: Array | None


@flax.struct.dataclass
class Best:
    """The k best so far along the last axis, best first: goal scores (higher is better) and candidate numbers."""

    score: Array
    index: Array


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    words: candidates in the order given. margins_W: mean refusal margin of each over the questions, in nats.
    best: numbers of the best words, best first. best_per_question: [Q, k] the same for every question alone.
    original_Q: margin of each unchanged question. flops: forward FLOPs of the whole search.
    """

    words: tuple[str, ...]
    margins_W: np.ndarray
    best: np.ndarray
    best_per_question: np.ndarray
    original_Q: np.ndarray
    flops: float


def image_features(params: Params, pixels: Sequence[np.ndarray], cfg: LlavaConfig, block: int = 16) -> Array:
    """Projected tokens [Q, P, D] of one normalised image [H, W, C] per question, `block` images at a time."""
    encode = jax.jit(encode_images, static_argnames="cfg")
    done = []
    for start in range(0, len(pixels), block):
        part = np.stack(pixels[start : start + block])
        short = block - len(part)
        part = np.pad(part, ((0, short), (0, 0), (0, 0), (0, 0)))
        done.append(encode(params, part[:, None], cfg=cfg)[: block - short])
    return jnp.concatenate(done)


def search(
    params: Params,
    cfg: LlavaConfig,
    processor: Processor,
    target: Target,
    words: Sequence[str],
    openings: Openings,
    *,
    goal: str = "jailbreak",
    mode: str = "swap",
    top: int = 3,
    block: int = 64,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Found:
    """Scores every word in every question and keeps the best.

    Args:
      target: the questions; universal words are the best by mean margin over all of them.
      words: candidates, each once. Equal scores are ordered by prompt length, then by place in this list.
      goal: "jailbreak" looks for the lowest margin, "over_refuse" for the highest.
      mode: "swap" replaces the question's first word, "insert" puts the word before it.
      top: how many best words to return.
      block: candidates per program; memory grows with it.
      steer, lora: guard and adapters inside the attacked program.
      progress: wraps the loop over blocks.

    Raises:
      InputError: no question or no candidate. JobError: a score is not a finite number.
    """
    if not target.questions or not words:
        raise InputError(
            f"the search has {len(target.questions)} questions and {len(words)} candidate words; it needs both"
        )
    run = functools.partial(_score, params, cfg=cfg, nodes=openings.nodes, steer=steer, lora=lora)
    original_Q = run(*_originals(processor, target, openings.depth), target.features_QPD)[:, 0]
    rows_QW = _tokenised(processor, target, words, mode)
    slots = _slots(rows_QW, block)
    best, best_Q = _empty((), top), _empty((len(target.questions),), top)
    means: list[Array] = []
    for slot_C in progress(slots, f"{goal} words", len(slots)) if progress else slots:
        tokens_QCT, lengths_QC = _padded([[row[max(w, 0)] for w in slot_C] for row in rows_QW], openings.depth)
        margins_QC = run(tokens_QCT, lengths_QC, target.features_QPD)
        best, best_Q, mean_C = _keep(best, best_Q, margins_QC, slot_C, GOALS[goal])
        means.append(mean_C)
        if len(means) > 1:  # at most two blocks in flight: the bar stays honest and memory bounded
            means[-2].block_until_ready()
    best, best_Q, mean, original_Q = jax.device_get((best, best_Q, jnp.concatenate(means), original_Q))
    margins_W = np.empty(len(words), np.float32)
    margins_W[slots[slots >= 0]] = mean[slots.reshape(-1) >= 0]
    if not np.isfinite(margins_W).all():
        raise JobError(f"the refusal margin of {words[int(np.isfinite(margins_W).argmin())]!r} is not a finite number")
    found = min(top, len(words))
    cost = _flops(cfg, rows_QW, openings)
    return Found(tuple(words), margins_W, best.index[:found], best_Q.index[:, :found], original_Q, cost)


@functools.partial(jax.jit, static_argnames=("cfg", "nodes"))
def _score(
    params: Params, tokens_QCT: Array, lengths_QC: Array, features_QPD: Array | None, *,
    cfg: LlavaConfig, nodes: tuple[Node, ...], steer: Steer | None, lora: dict[str, Any] | None,
) -> Array:  # fmt: skip
    """Refusal margins [Q, C]: one question after the other, all its candidates as one batch."""

    def one(xs: tuple) -> Array:
        tokens_CT, lengths_C, features_PD = xs
        shared = None
        if features_PD is not None:
            shared = jnp.broadcast_to(features_PD, (tokens_CT.shape[0], *features_PD.shape))
        return refusal_margin(params, Batch(tokens_CT, lengths_C, None, shared), cfg, nodes, steer, lora)

    return jax.lax.map(one, (tokens_QCT, lengths_QC, features_QPD))


def refusal_margin(
    params: Params, batch: Batch, cfg: LlavaConfig, nodes: tuple[Node, ...],
    steer: Steer | None = None, lora: dict[str, Any] | None = None,
) -> Array:  # fmt: skip
    """Log-odds [B] that the answer to each prompt starts with a refusal opening, in nats.

    Every node of the openings' tree is one forward of the prompt plus the node's prefix. Leaving the tree at any node
    means no refusal, so both sides are sums over nodes and the margin keeps its precision near probabilities 0 and 1.
    The batch needs room for the deepest prefix after each row's length.
    """
    rows = jnp.arange(batch.tokens_BT.shape[0])
    reached, yes, no = [], [], []
    for node in nodes:
        tokens_BT, lengths_B = batch.tokens_BT, batch.lengths_B
        for step, token in enumerate(node.prefix):
            tokens_BT = tokens_BT.at[rows, lengths_B + step].set(token)
        here = batch.replace(tokens_BT=tokens_BT, lengths_B=lengths_B + len(node.prefix))
        out = forward(params, here, cfg, steer=steer, lora=lora, logits=False)
        if steer is not None and steer.gated and steer.gate_LB is None:
            steer = steer.replace(gate_LB=out.gate_LB)  # the gate reads the prompt's end, not the opening's
        logp_BV = jax.nn.log_softmax(logits_of(params, out.hidden_BTD[rows, here.lengths_B - 1], cfg))
        before_B = 0.0 if node.parent < 0 else reached[node.parent][:, node.prefix[-1]]
        reached.append(before_B[:, None] + logp_BV if node.parent >= 0 else logp_BV)
        inside = np.array(sorted({*node.refusal, *node.deeper}))
        if node.refusal:
            yes.append(jax.nn.logsumexp(reached[-1][:, np.array(node.refusal)], axis=-1))
        no.append(jax.nn.logsumexp(reached[-1].at[:, inside].set(-jnp.inf), axis=-1))
    total_yes, total_no = (jax.nn.logsumexp(jnp.stack(side), axis=0) for side in (yes, no))
    return total_yes - total_no


@jax.jit
def _keep(best: Best, best_Q: Best, margins_QC: Array, slot_C: Array, sign: float) -> tuple[Best, Best, Array]:
    """Merges a block into the best so far; earlier candidates win ties. Slots of -1 are filling."""
    mean_C = margins_QC.mean(axis=0)
    score_C = jnp.where(slot_C >= 0, sign * mean_C, -jnp.inf)
    score_QC = jnp.where(slot_C >= 0, sign * margins_QC, -jnp.inf)
    index_QC = jnp.broadcast_to(slot_C, margins_QC.shape)
    return _merge(best, score_C, slot_C), _merge(best_Q, score_QC, index_QC), mean_C


def _merge(best: Best, score: Array, index: Array) -> Best:
    all_scores = jnp.concatenate([best.score, score], axis=-1)
    all_index = jnp.concatenate([best.index, index], axis=-1)
    top, place = jax.lax.top_k(all_scores, best.score.shape[-1])
    return Best(top, jnp.take_along_axis(all_index, place, axis=-1))


def _empty(shape: tuple[int, ...], k: int) -> Best:
    return Best(jnp.full((*shape, k), -jnp.inf), jnp.full((*shape, k), -1, jnp.int32))


def _tokenised(processor: Processor, target: Target, words: Sequence[str], mode: str) -> list[list[list[int]]]:
    """The whole prompt of every question with every word, tokenised as a user's text would be."""
    pairs = list(zip(target.questions, target.images, strict=True))
    return [[processor.prompt_ids(open_with(q, word, mode), n_images=m) for word in words] for q, m in pairs]


def _originals(processor: Processor, target: Target, depth: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = zip(target.questions, target.images, strict=True)
    return _padded([[processor.prompt_ids(q, n_images=m)] for q, m in pairs], depth)


def _slots(rows_QW: list[list[list[int]]], block: int) -> np.ndarray:
    """Candidate numbers in blocks [blocks, C], short prompts first so that few blocks are long; -1 fills the last."""
    length_W = np.array([[len(ids) for ids in row] for row in rows_QW]).max(axis=0)
    order = np.argsort(length_W, kind="stable").astype(np.int32)
    return np.pad(order, (0, -len(order) % block), constant_values=-1).reshape(-1, block)


def _padded(rows: list[list[list[int]]], depth: int, multiple: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Prompts -> (tokens [Q, C, T], lengths [Q, C]); T has room for `depth` more tokens and is a multiple of 8."""
    lengths_QC = np.array([[len(ids) for ids in row] for row in rows], np.int32)
    T = -(-(int(lengths_QC.max()) + depth) // multiple) * multiple
    tokens_QCT = np.zeros((*lengths_QC.shape, T), np.int32)
    for q, row in enumerate(rows):
        for c, ids in enumerate(row):
            tokens_QCT[q, c, : len(ids)] = ids
    return tokens_QCT, lengths_QC


def _flops(cfg: LlavaConfig, rows_QW: list[list[list[int]]], openings: Openings) -> float:
    lengths = np.array([len(ids) for row in rows_QW for ids in row])
    forwards = sum(decoder_flops(cfg.text, lengths + len(node.prefix)) for node in openings.nodes)
    return forwards + len(rows_QW) * vision_flops(cfg)
