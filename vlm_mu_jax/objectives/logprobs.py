"""Sums of token losses per example in chunks of tokens, so that the [B, T, V] logits never exist at once.

One function stands under every loss on text: it returns per-example sums, and each objective chooses its own
reduction. The body of the scan is checkpointed, so the backward pass recomputes a chunk's logits instead of keeping
them. A LLaVA-1.5 batch of 16 x 2048 tokens would otherwise hold 4.2 GB of float32 logits.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.objectives.token_losses import NLL, TokenLoss

Head = Callable[[Array], Array]  # hidden [..., D] -> float32 logits [..., V]

CHUNK = 256  # tokens of each row whose logits exist at the same time


def answer_sums(
    hidden_BTD: Array,
    head: Head,
    tokens_BT: Array,
    mask_BT: Array,
    losses: Sequence[TokenLoss],
    reference: tuple[Array, Head] | None = None,
    chunk: int = CHUNK,
) -> list[Array]:
    """float32 [B] per loss: its sum over the masked tokens of every row.

    Args:
      hidden_BTD: hidden states after the final norm; position t predicts token t + 1.
      head: maps hidden states to float32 logits.
      tokens_BT: token ids.
      mask_BT: True where the token itself is scored (an answer token); position 0 has no predictor and never counts.
      losses: functions of the logits; they share them.
      reference: hidden states and head of the model before training, when a loss asks for its logits.
      chunk: tokens per row in one piece; the result does not depend on it.
    """
    targets_BT = jnp.roll(tokens_BT, -1, axis=1)
    scored_BTS = jnp.stack([jnp.roll(loss.scored(predictable(mask_BT)), -1, axis=1) for loss in losses], axis=-1)
    inputs = (hidden_BTD, targets_BT, scored_BTS, *(() if reference is None else reference[:1]))

    def piece(hidden: Array, targets: Array, scored: Array, before: Array | None = None) -> Array:
        logits = head(hidden).astype(jnp.float32)
        known = None if before is None else reference[1](before).astype(jnp.float32)
        values = jnp.stack([loss(logits, targets, known) for loss in losses], axis=-1)
        # where, not a product: a padded row may hold inf, and inf * 0 is NaN
        return jnp.where(scored, values, 0.0).sum(axis=1)

    sums_BS = _sum_over_chunks(piece, inputs, len(losses), chunk)
    return [sums_BS[:, i] for i in range(len(losses))]


def answer_nll(
    hidden_BTD: Array, head: Head, tokens_BT: Array, mask_BT: Array, chunk: int = CHUNK
) -> tuple[Array, Array]:
    """Negative log-likelihood of the masked tokens, summed per example, in nats, and their number: both float32 [B]."""
    (nll_B,) = answer_sums(hidden_BTD, head, tokens_BT, mask_BT, (NLL(),), chunk=chunk)
    return nll_B, count(mask_BT)


def predictable(mask_BT: Array) -> Array:
    """The loss tokens that have a predictor: all but those at position 0."""
    return mask_BT.astype(bool).at[:, 0].set(False)


def count(mask_BT: Array, loss: TokenLoss | None = None) -> Array:
    """float32 [B]: how many tokens of a row count, for one loss or in general."""
    return (loss or NLL()).scored(predictable(mask_BT)).sum(axis=-1).astype(jnp.float32)


def _sum_over_chunks(piece: Callable[..., Array], inputs: tuple[Array, ...], width: int, chunk: int) -> Array:
    """[B, width] sum of `piece` over chunks of axis 1; the last chunk is padded with False / zeros."""
    rows, length = inputs[0].shape[:2]
    if length <= chunk:
        return jax.checkpoint(piece)(*inputs)
    pieces = -(-length // chunk)

    def split(x: Array) -> Array:
        widths = [(0, 0), (0, pieces * chunk - length)] + [(0, 0)] * (x.ndim - 2)
        return jnp.moveaxis(jnp.pad(x, widths).reshape(rows, pieces, chunk, *x.shape[2:]), 1, 0)

    def body(total_BS: Array, chunks: tuple[Array, ...]) -> tuple[Array, None]:
        return total_BS + jax.checkpoint(piece, prevent_cse=False)(*chunks), None

    total_BS, _ = jax.lax.scan(body, jnp.zeros((rows, width), jnp.float32), tuple(split(x) for x in inputs))
    return total_BS
