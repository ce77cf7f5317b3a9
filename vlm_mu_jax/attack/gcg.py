"""Proposals of greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043, algorithm 1): single tokens, by gradient.

The gradient of the refusal margin with respect to the one-hot vector of every place of the suffix says, to first order,
which tokens would move it most; a step draws among the `top` of each place. Only proposals come from it: they are
scored exactly, as texts (`attack.suffix`). The gradient is taken on the question's prefix cache, except where a guard's
gates depend on the suffix: then on the whole prompt, with the gates it decides.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.attack import candidates, margin
from vlm_mu_jax.attack import prefix as prefix_lib
from vlm_mu_jax.attack.flops import candidate_flops
from vlm_mu_jax.attack.guards import FirstPass
from vlm_mu_jax.attack.openings import Node
from vlm_mu_jax.attack.suffix import Scorer, Settings, Slots, with_suffix
from vlm_mu_jax.attack.words import Placed
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.decoder import KV, Steer
from vlm_mu_jax.model.llava import Batch, embed
from vlm_mu_jax.model.params import Params

_EMBEDDED = -1  # a token id no tokenizer gives: the place of a row of `features`
_WIDTH = 8  # widths of the rows behind a prefix are multiples of it: few programs


def propose(scorer: Scorer, now: Slots, allowed: np.ndarray, use: Settings, rng: np.random.Generator) -> np.ndarray:
    """Ids [N, S]: each row one token of the suffix replaced by one of the `top` of its place; see `suffix.Propose`."""
    top_SK = _best_swaps(scorer, now, allowed, min(use.top, len(allowed)))
    S, K = top_SK.shape
    drawn_N = rng.choice(S * K, min(use.candidates - 1, S * K), replace=False)
    proposed_NS = np.tile(np.array(now.ids, np.int32), (len(drawn_N), 1))
    proposed_NS[np.arange(len(drawn_N)), drawn_N // K] = top_SK.reshape(-1)[drawn_N]
    return proposed_NS


def _best_swaps(scorer: Scorer, now: Slots, allowed: np.ndarray, count: int) -> np.ndarray:
    """Token ids [S, count] that the gradient likes best at each place."""
    task, where, shared = scorer.task, scorer.where, scorer.shared
    prompts = candidates.tokenise(task.processor, scorer.question, shared.images, [Placed(scorer.question)])
    image = task.cfg.image_token_id
    count_of_image = prompts.original_ids.count(image) if shared.images else 0
    head, tail = (_expanded(part, image, count_of_image) for part in (now.head, now.tail))
    whole = (*head, *now.ids, *tail)
    steer, kv, start, row = task.steer, None, 0, whole
    if isinstance(steer, FirstPass):
        steer = _decided(scorer, steer, whole, now)
    elif len(head) >= prompts.image_end and not prefix_lib.depends_on_gates(steer):
        kv, start, row = shared.prefix(prompts, steer).kv, len(head), whole[len(head) :]
    width = bucket(len(row)) if kv is None else -(-len(row) // _WIDTH) * _WIDTH
    batch = where.put(task.processor.pad([row], length=width))
    allowed_V = np.zeros(task.cfg.text.V, bool)
    allowed_V[allowed] = True
    at_S = np.arange(len(head) - start, len(head) - start + len(now.ids))
    scorer.count(2 * candidate_flops(task.cfg.text, start, np.array([len(whole)]), task.nodes))  # no weight gradients
    top_SK = best_swaps(
        where.params, kv, start, batch.tokens_BT, batch.lengths_B, None if kv is not None else shared.features, at_S,
        allowed_V, task.sign, cfg=task.cfg, nodes=task.nodes, count=count, steer=where.put(steer), lora=where.lora,
    )  # fmt: skip
    return np.asarray(top_SK)


@functools.partial(jax.jit, static_argnames=("cfg", "nodes", "count"))
def best_swaps(
    params: Params, kv: KV | None, start: Array, tokens_1T: Array, length_1: Array, features_1QD: Array | None,
    at_S: Array, allowed_V: Array, sign: float, *, cfg: LlavaConfig, nodes: tuple[Node, ...], count: int,
    steer: Steer | None = None, lora: dict[str, Any] | None = None,
) -> Array:  # fmt: skip
    """Tokens [S, count], best first, by the one-hot gradient of sign * margin at the places `at_S` of the row.

    Other arguments as in `margin.score`. Every token stands as an image token does, with its embedding given: guards
    that write text or image tokens only are left out of this gradient (never out of a score).
    """
    x_1TD = embed(params, Batch(tokens_1T, length_1, None, features_1QD), cfg)
    given, places_1T = dataclasses.replace(cfg, image_token_id=_EMBEDDED), jnp.full_like(tokens_1T, _EMBEDDED)
    steer = None if steer is not None and steer.scope in ("text", "image") else steer

    def gain(x_1TD: Array) -> Array:
        score_1, _ = margin.score(
            params, kv, start, places_1T, length_1, x_1TD, cfg=given, nodes=nodes, steer=steer, lora=lora
        )
        return sign * score_1[0]

    slope_SD = jax.grad(gain)(x_1TD)[0, at_S]
    slope_SV = jnp.einsum("sd,vd->sv", slope_SD, params["decoder"]["embed_VD"], preferred_element_type=jnp.float32)
    return jax.lax.top_k(jnp.where(allowed_V[None], slope_SV, -jnp.inf), count)[1]


def _decided(scorer: Scorer, guard: FirstPass, whole: tuple[int, ...], now: Slots) -> Steer:
    """The guard with the gates that it decides on the prompt with its suffix."""
    task, where, features = scorer.task, scorer.where, scorer.shared.features
    if guard.text_only:
        text = task.processor.tokenizer.decode(list(now.ids), clean_up_tokenization_spaces=False).strip()
        whole, features = tuple(task.processor.prompt_ids(with_suffix(scorer.question, text), ())), None
    batch = where.put(task.processor.pad([whole], length=bucket(len(whole))))
    states = margin.last_states(
        where.params, None, 0, batch.tokens_BT, batch.lengths_B, features, cfg=task.cfg, lora=where.lora
    )
    return guard.steer_of(np.asarray(states))


def _expanded(ids: tuple[int, ...], image: int | None, count: int) -> tuple[int, ...]:
    """The image's placeholder as often as it has tokens."""
    return tuple(i for token in ids for i in ((token,) * count if token == image else (token,)))
