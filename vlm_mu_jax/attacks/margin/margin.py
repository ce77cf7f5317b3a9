"""The refusal margin of a prompt: the log-odds, in nats, that the answer starts with a refusal opening.

The openings form a tree of token prefixes (`openings.Openings.nodes`). The score needs the model's next-token
distribution at every node: after the prompt and the node's tokens. A node costs one token per candidate, which reads
the cached keys and values of the prompt and of the nodes above it.

An answer that leaves the tree at any node is no refusal. Both sides of the odds are therefore sums over nodes, and the
margin keeps its precision near probabilities 0 and 1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.attacks.margin.openings import Node
from vlm_mu_jax.attacks.margin.prefix import ImageTokens, rows_with, upto
from vlm_mu_jax.model.cache import KV, without_images
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer, hides_image, while_decoding
from vlm_mu_jax.model.vlm import Batch, Output, forward, logits_of
from vlm_mu_jax.steering.shapes import check_shapes


class CandidateRows(NamedTuple):
    """Prompts of one question: rows of tokens behind a prefix that they share.

    kv: the prefix cache of the question. None: the rows are whole prompts.
    start: how many tokens of the cache the rows share.
    tokens_CT: int [C, T], the rows' own tokens, right-padded.
    lengths_C: int [C], how many of them are real.
    image: the question's image, where the rows hold image placeholders.
    embedded_CTD: float [C, T, D], the rows' embeddings, in place of those of the tokens and the image.
    """

    kv: KV | None
    start: Array | int
    tokens_CT: Array
    lengths_C: Array
    image: ImageTokens | None = None
    embedded_CTD: Array | None = None


@functools.partial(jax.jit, static_argnames=("cfg", "nodes"))
def score(
    params: Params,
    rows: CandidateRows,
    *,
    cfg: ModelConfig,
    nodes: tuple[Node, ...],
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> tuple[Array, Array | None]:
    """Scores the candidates of one question.

    Args:
      rows: the candidates.
      nodes: the tree of the openings.
      steer: the guard. Gates that it does not hold are decided at each prompt's last token.
      lora: adapters.

    Returns:
      (refusal margins float [C] in nats, gates [L, C] of the guard or None).

    Raises:
      InputError: an array has another shape.
    """
    check_shapes(tokens_CT=rows.tokens_CT, lengths_C=rows.lengths_C, embedded_CTD=rows.embedded_CTD)
    out = _run(params, rows, cfg, steer, lora, keep=len(nodes) > 1)
    past = _past(rows, out.cache)
    if hides_image(steer) and past:
        past = without_images(
            (*past[:-1], past[-1].replace(image_BS=rows.tokens_CT == cfg.image_token_id)), out.gate_LB
        )
    steer = while_decoding(steer, out.gate_LB)
    prompt_C = rows.lengths_C if rows.kv is None else rows.start + rows.lengths_C
    margin_C = _walk(params, out.hidden_BTD[:, 0], past, prompt_C, cfg, nodes, steer, lora)
    return margin_C, out.gate_LB


@functools.partial(jax.jit, static_argnames="cfg")
def last_states(params: Params, rows: CandidateRows, *, cfg: ModelConfig, lora: dict[str, Any] | None = None) -> Array:
    """Unsteered block outputs at each prompt's last token, float32 [L, C, D]: what a guard's first pass reads."""
    return _run(params, rows, cfg, None, lora, tap="last").taps


def _run(
    params: Params,
    rows: CandidateRows,
    cfg: ModelConfig,
    steer: Steer | None,
    lora: dict[str, Any] | None,
    keep: bool = False,
    tap: str | None = None,
) -> Output:
    past, offset_C = (), None
    if rows.kv is not None:
        past, offset_C = (upto(rows.kv, rows.start),), jnp.full(rows.tokens_CT.shape[:1], rows.start, jnp.int32)
    return forward(
        params,
        rows_with(rows.image, rows.tokens_CT, rows.lengths_C).replace(embedded_BTD=rows.embedded_CTD),
        cfg,
        past=past,
        offset_B=offset_C,
        steer=steer,
        lora=lora,
        tap=tap,
        keep_cache=keep,
        logits=False,
        last_only=True,
    )


def _past(rows: CandidateRows, own: KV | None) -> tuple[KV, ...]:
    """What the openings' tokens read: the shared prefix and the candidates' own tokens."""
    if own is None:
        return ()
    return (own,) if rows.kv is None else (upto(rows.kv, rows.start), own)


def _walk(
    params: Params,
    last_CD: Array,
    past: tuple[KV, ...],
    lengths_C: Array,
    cfg: ModelConfig,
    nodes: tuple[Node, ...],
    steer: Steer | None,
    lora: dict[str, Any] | None,
) -> Array:
    """The margin [C] from the state after each prompt's last token. lengths_C: of the whole prompts."""
    tree, C, count = _Tree(nodes, cfg.text.V), len(lengths_C), len(nodes)
    no_mass = jnp.full((C,), -jnp.inf)
    reached_CM = jnp.full((C, count), -jnp.inf).at[:, 0].set(0.0)  # log-probability of each node's tokens
    reached_CM, yes_C, no_C = _read(params, last_CD, cfg, tree.row(0), 0, reached_CM, no_mass, no_mass)
    if count > 1:
        shape = (cfg.text.L, C, count, *past[-1].k.shape[-2:])
        empty = jnp.zeros(shape, past[-1].k.dtype)
        depth_CM = jnp.broadcast_to(jnp.asarray(tree.depth)[None] - 1, (C, count))

        def visit(carry: tuple, m: Array) -> tuple[tuple, None]:
            reached_CM, yes_C, no_C, k, v = carry
            here = tree.row(m)
            made = KV(k, v, lengths_C[:, None] + depth_CM, jnp.broadcast_to(here["above"][None], (C, count)))
            one = Batch(jnp.broadcast_to(here["token"], (C, 1)), jnp.ones((C,), jnp.int32))
            out = forward(
                params,
                one,
                cfg,
                past=(*past, made),
                offset_B=lengths_C + here["depth"] - 1,
                steer=steer,
                lora=lora,
                keep_cache=True,
                logits=False,
            )
            k = jax.lax.dynamic_update_slice_in_dim(k, out.cache.k, m, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(v, out.cache.v, m, axis=2)
            read = _read(params, out.hidden_BTD[:, 0], cfg, here, m, reached_CM, yes_C, no_C)
            return (*read, k, v), None

        carry = (reached_CM, yes_C, no_C, empty, empty)
        (_, yes_C, no_C, *_), _ = jax.lax.scan(visit, carry, jnp.arange(1, count))
    return yes_C - no_C


def _read(
    params: Params,
    last_CD: Array,
    cfg: ModelConfig,
    here: dict[str, Array],
    m: Any,
    reached_CM: Array,
    yes_C: Array,
    no_C: Array,
) -> tuple[Array, Array, Array]:
    """Adds one node's next-token distribution to the two sides, and to the nodes below it."""
    logits_CV = logits_of(params, last_CD, cfg)
    before_C = jnp.take(reached_CM, m, axis=1) - jax.nn.logsumexp(logits_CV, axis=-1)

    def mass(tokens: Array) -> Array:
        """Log-probabilities of the node's tokens followed by each of these; filling (V) has none."""
        return logits_CV.at[:, tokens].get(mode="fill", fill_value=-jnp.inf) + before_C[:, None]

    reached_CM = reached_CM.at[:, here["deeper_node"]].set(mass(here["deeper"]), mode="drop")
    inside_V = jnp.zeros((cfg.text.V,), bool).at[here["refusal"]].set(True, mode="drop")
    inside_V = inside_V.at[here["deeper"]].set(True, mode="drop")
    outside_CV = jnp.where(inside_V[None], -jnp.inf, logits_CV)
    yes_C = _add(yes_C, mass(here["refusal"]))
    no_C = _add(no_C, (jax.nn.logsumexp(outside_CV, axis=-1) + before_C)[:, None])
    return reached_CM, yes_C, no_C


def _add(total_C: Array, logs_CN: Array) -> Array:
    """log(exp(total) + sum of exp(logs)); its gradient is 0, not NaN, where nothing has any mass yet."""
    logs = jnp.concatenate([total_C[:, None], logs_CN], axis=1)
    empty_C = jnp.isneginf(logs).all(axis=1)
    return jnp.where(empty_C, -jnp.inf, jax.nn.logsumexp(jnp.where(empty_C[:, None], 0.0, logs), axis=1))


class _Tree:
    """The openings' nodes as arrays of one shape: lists of tokens are filled up with V, lists of nodes with M."""

    def __init__(self, nodes: tuple[Node, ...], V: int) -> None:
        M, index = len(nodes), {node.prefix: m for m, node in enumerate(nodes)}
        self.depth = np.array([len(node.prefix) for node in nodes])
        above = [[index[node.prefix[:i]] for i in range(1, len(node.prefix))] for node in nodes]
        self.arrays = {
            "token": np.array([node.prefix[-1] if node.prefix else 0 for node in nodes]),
            "depth": self.depth,
            "above": np.array([[m in some for m in range(M)] for some in above]),
            "refusal": _filled([node.refusal for node in nodes], V),
            "deeper": _filled([node.deeper for node in nodes], V),
            "deeper_node": _filled([[index[(*n.prefix, token)] for token in n.deeper] for n in nodes], M),
        }

    def row(self, m: Any) -> dict[str, Array]:
        return {name: jnp.asarray(array)[m] for name, array in self.arrays.items()}


def _filled(rows: list[Any], value: int) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows))), value, np.int32)
    for row, items in zip(out, rows, strict=True):
        row[: len(items)] = items
    return out
