"""Proposals of greedy coordinate gradient (GCG; Zou et al. 2023, arXiv 2307.15043, algorithm 1).

A proposal replaces one token of the suffix. The gradient of the refusal margin with respect to the one-hot vector of a
place says, to first order, which tokens would move the margin most. A step draws among the `top` tokens of each place.
Only proposals come from the gradient. They are scored exactly, as texts (`methods.suffix`).

The gradient is taken on the question's prefix cache. Where a guard's gates depend on the suffix, it is taken on the
whole prompt, with the gates that the guard decides. The gradients of questions that share a suffix are summed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.attacks.margin import margin, prefix
from vlm_mu_jax.attacks.margin.guards import FirstPass, depends_on_gates
from vlm_mu_jax.attacks.margin.openings import Node
from vlm_mu_jax.attacks.margin.prefix import rows_with
from vlm_mu_jax.attacks.margin.scoring import candidate_flops
from vlm_mu_jax.attacks.methods.suffix_prompts import Scorer, Slots, SuffixOptions, with_suffix
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import embed

_WIDTH = 8  # widths of the rows behind a prefix are multiples of it: few programs


def propose(
    open_: Sequence[tuple[Scorer, Slots]],
    ids: tuple[int, ...],
    allowed: np.ndarray,
    use: SuffixOptions,
    rng: np.random.Generator,
) -> np.ndarray:
    """Ids [N, S]. In each row one token of the suffix is one of the `top` of its place (`suffix.Propose`)."""
    top_SK = _best_swaps(open_, allowed, min(use.top, len(allowed)))
    S, K = top_SK.shape
    drawn_N = rng.choice(S * K, min(use.candidates - 1, S * K), replace=False)
    proposed_NS = np.tile(np.array(ids, np.int32), (len(drawn_N), 1))
    proposed_NS[np.arange(len(drawn_N)), drawn_N // K] = top_SK.reshape(-1)[drawn_N]
    return proposed_NS


def _best_swaps(open_: Sequence[tuple[Scorer, Slots]], allowed: np.ndarray, count: int) -> np.ndarray:
    """Token ids [S, count]: at each place those with the largest sum of the questions' gradients, best first."""
    running = [_slopes(scorer, now) for scorer, now in open_]
    total_SV = sum(np.asarray(slope_SV) for slope_SV in running)
    outside_V = np.ones(total_SV.shape[1], bool)
    outside_V[allowed] = False
    total_SV = np.where(outside_V[None], -np.inf, total_SV)
    top_SK = np.argpartition(-total_SV, count - 1, axis=1)[:, :count]
    order_SK = np.argsort(-np.take_along_axis(total_SV, top_SK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top_SK, order_SK, axis=1)


def _slopes(scorer: Scorer, now: Slots) -> Array:
    """`slopes` of one question, on its prefix cache unless that cache depends on the suffix."""
    task, where, shared = scorer.task, scorer.where, scorer.shared
    placed = [Placed(scorer.question)]
    prompts = prefix.tokenise(task.processor, scorer.question, shared.images, placed, shared.context)
    head = task.processor.lengthened(now.head, shared.images)
    tail = task.processor.lengthened(now.tail, shared.images, before=now.head)
    whole = (*head, *now.ids, *tail)
    steer, kv, start, row = task.steer, None, 0, whole
    if isinstance(steer, FirstPass):
        steer = _decided(scorer, steer, whole, now)
    elif len(head) >= prompts.image_end and not depends_on_gates(steer):
        kv, start, row = shared.prefix(prompts, steer).kv, len(head), whole[len(head) :]
    width = bucket(len(row)) if kv is None else -(-len(row) // _WIDTH) * _WIDTH
    batch = where.put(task.processor.pad([row], length=width))
    at_S = np.arange(len(head) - start, len(head) - start + len(now.ids))
    scorer.count(2 * candidate_flops(task.cfg.text, start, np.array([len(whole)]), task.nodes))  # no weight gradients
    image = None if kv is not None else shared.features
    rows = margin.CandidateRows(kv, start, batch.tokens_BT, batch.lengths_B, image)
    cfg, nodes = task.cfg, task.nodes
    return slopes(where.params, rows, at_S, task.sign, cfg=cfg, nodes=nodes, steer=where.put(steer), lora=where.lora)


@functools.partial(jax.jit, static_argnames=("cfg", "nodes"))
def slopes(
    params: Params,
    row: margin.CandidateRows,
    at_S: Array,
    sign: float,
    *,
    cfg: ModelConfig,
    nodes: tuple[Node, ...],
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> Array:
    """One-hot gradient [S, V] of sign * margin at the places `at_S` of one row.

    The gradient is scaled to length 1 at every place, so that no question drowns the others in their sum
    (llm-attacks/llm-attacks@llm_attacks/gcg/gcg_attack.py does the same). Other arguments are as in `margin.score`.
    """
    x_1TD = embed(params, rows_with(row.image, row.tokens_CT, row.lengths_C), cfg)

    def gain(x_1TD: Array) -> Array:
        score_1, _ = margin.score(
            params, row._replace(embedded_CTD=x_1TD), cfg=cfg, nodes=nodes, steer=steer, lora=lora
        )
        return sign * score_1[0]

    slope_SD = jax.grad(gain)(x_1TD)[0, at_S]
    slope_SV = jnp.einsum("sd,vd->sv", slope_SD, params["decoder"]["embed_VD"], preferred_element_type=jnp.float32)
    length_S1 = jnp.linalg.norm(slope_SV, axis=1, keepdims=True)
    return slope_SV / jnp.where(length_S1 > 0, length_S1, 1.0)


def _decided(scorer: Scorer, guard: FirstPass, whole: tuple[int, ...], now: Slots) -> Steer:
    """The guard, with the gates that it decides on the prompt and its suffix."""
    task, where, features = scorer.task, scorer.where, scorer.shared.features
    if guard.text_only:
        text = task.processor.tokenizer.decode(list(now.ids), clean_up_tokenization_spaces=False).strip()
        seen = guard.reads(scorer.shared.images, scorer.shared.context)
        whole, features = tuple(task.processor.prompt_ids(with_suffix(scorer.question, text), *seen)), None
    batch = where.put(task.processor.pad([whole], length=bucket(len(whole))))
    rows = margin.CandidateRows(None, 0, batch.tokens_BT, batch.lengths_B, features)
    return guard.decided(where.params, rows, task.cfg, where.lora)
