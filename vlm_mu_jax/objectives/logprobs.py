"""Answer log-probabilities in chunks of tokens, so that the [B, T, V] logits never exist at once.

One function stands under every loss on text: it returns per-example sums and token counts, and each objective
chooses its own reduction. The body of the scan is checkpointed, so the backward pass recomputes a chunk's logits
instead of keeping them. A LLaVA-1.5 batch of 16 x 2048 tokens would otherwise hold 4.2 GB of float32 logits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Head = Callable[[Array], Array]  # hidden [..., D] -> float32 logits [..., V]

CHUNK = 256  # tokens of each row whose logits exist at the same time


def answer_nll(
    hidden_BTD: Array, head: Head, tokens_BT: Array, mask_BT: Array, chunk: int = CHUNK
) -> tuple[Array, Array]:
    """Negative log-likelihood of the masked tokens, summed per example.

    Args:
      hidden_BTD: hidden states after the final norm; position t predicts token t + 1.
      head: maps hidden states to float32 logits.
      tokens_BT: token ids.
      mask_BT: True where the token itself is scored (an answer token); position 0 has no predictor and never counts.
      chunk: tokens per row in one piece; the result does not depend on it.

    Returns:
      nll_B: float32 sums in nats, and count_B: float32 number of scored tokens.
    """
    targets_BT, scored_BT = shift(tokens_BT, mask_BT)

    def piece(hidden_BCD: Array, targets_BC: Array, scored_BC: Array) -> Array:
        logits = head(hidden_BCD).astype(jnp.float32)
        picked = jnp.take_along_axis(logits, targets_BC[..., None], axis=-1)[..., 0]
        # where, not a product: a padded row may hold inf, and inf * 0 is NaN
        return jnp.where(scored_BC, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0).sum(axis=-1)

    nll_B = _sum_over_chunks(piece, (hidden_BTD, targets_BT, scored_BT), chunk)
    return nll_B, scored_BT.sum(axis=-1).astype(jnp.float32)


def answer_kl(
    hidden_BTD: Array,
    head: Head,
    reference_BTD: Array,
    reference_head: Head,
    mask_BT: Array,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """KL(reference || current) of the next-token distributions that predict masked tokens, summed per example.

    The direction is the one of open-unlearning and the NPO authors' code; unlike theirs it is masked (prompt and
    padding positions count nothing) and computed from float32 log-softmax.

    Returns:
      kl_B in nats and count_B.
    """
    _, scored_BT = shift(jnp.zeros(mask_BT.shape, jnp.int32), mask_BT)

    def piece(hidden_BCD: Array, reference_BCD: Array, scored_BC: Array) -> Array:
        current = jax.nn.log_softmax(head(hidden_BCD).astype(jnp.float32), axis=-1)
        reference = jax.nn.log_softmax(reference_head(reference_BCD).astype(jnp.float32), axis=-1)
        kl = (jnp.exp(reference) * (reference - current)).sum(axis=-1)
        return jnp.where(scored_BC, kl, 0.0).sum(axis=-1)

    kl_B = _sum_over_chunks(piece, (hidden_BTD, reference_BTD, scored_BT), chunk)
    return kl_B, scored_BT.sum(axis=-1).astype(jnp.float32)


def shift(tokens_BT: Array, mask_BT: Array) -> tuple[Array, Array]:
    """Targets and mask aligned with the positions that predict them; the last position predicts nothing."""
    scored_BT = jnp.roll(mask_BT.astype(bool), -1, axis=1).at[:, -1].set(False)
    return jnp.roll(tokens_BT, -1, axis=1), scored_BT


def _sum_over_chunks(piece: Callable[..., Array], inputs: tuple[Array, ...], chunk: int) -> Array:
    """Sum of `piece` over chunks of axis 1; the last chunk is padded with False / zeros."""
    rows, length = inputs[0].shape[:2]
    if length <= chunk:
        return jax.checkpoint(piece)(*inputs)
    count = -(-length // chunk)

    def split(x: Array) -> Array:
        widths = [(0, 0), (0, count * chunk - length)] + [(0, 0)] * (x.ndim - 2)
        return jnp.moveaxis(jnp.pad(x, widths).reshape(rows, count, chunk, *x.shape[2:]), 1, 0)

    def body(total_B: Array, chunks: tuple[Array, ...]) -> tuple[Array, None]:
        return total_B + jax.checkpoint(piece, prevent_cse=False)(*chunks), None

    total_B, _ = jax.lax.scan(body, jnp.zeros((rows,), jnp.float32), tuple(split(x) for x in inputs))
    return total_B
