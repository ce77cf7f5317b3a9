"""What an objective may ask of the model that trains, and the token classes it may tell apart.

Objectives know nothing of parameters: `training/` hands them a `Policy`, tests hand them a fake one. Every loss is a
sum over the rows it gets, divided by `totals`, the sums of its `denominators` over the whole step. Since denominators
depend on masks alone, splitting a batch into micro-batches with unequal token counts changes nothing.
"""

from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

Totals = dict[str, Array]  # scalars
Metrics = dict[str, Array]  # scalars that add up over micro-batches

TOKEN_CLASSES = ("image", "prompt", "answer", "padding")


class Policy(Protocol):
    """The model as an objective sees it. `rows` is a `vlm_mu_jax.data.batches.TrainBatch`."""

    constants: dict[str, Array]  # what the objective's `constants` returned
    image_token_id: int | None

    def nll(self, rows: Any) -> tuple[Array, Array]:
        """(nll_B, count_B) of the loss tokens."""

    def kl(self, rows: Any) -> tuple[Array, Array]:
        """(KL(reference || current)_B, count_B) over the loss tokens."""

    def hidden(self, rows: Any, layer: int) -> Array:
        """Residual stream [B, T, D] after decoder block `layer` (0-based)."""

    def reference_hidden(self, rows: Any, layer: int) -> Array:
        """The same under the weights before training; no gradient."""


def class_mask(rows: Any, image_token_id: int | None, classes: tuple[str, ...]) -> Array:
    """mask_BT, True at positions of the named classes.

    image: placeholder positions; answer: loss tokens; padding: beyond the row's length; prompt: every other position.
    """
    tokens_BT, lengths_B = rows.batch.tokens_BT, rows.batch.lengths_B
    real_BT = jnp.arange(tokens_BT.shape[1])[None, :] < lengths_B[:, None]
    answer_BT = rows.mask_BT.astype(bool) & real_BT
    image_BT = real_BT & (tokens_BT == (-1 if image_token_id is None else image_token_id))
    members = {"image": image_BT, "answer": answer_BT, "padding": ~real_BT, "prompt": real_BT & ~answer_BT & ~image_BT}
    mask_BT = jnp.zeros(tokens_BT.shape, bool)
    for name in classes:
        mask_BT = mask_BT | members[name]
    return mask_BT


def scored_tokens(rows: Any) -> Array:
    """Number of loss tokens in the rows (a token at position 0 has no predictor)."""
    return rows.mask_BT[:, 1:].astype(jnp.float32).sum()


def ratio(numerator: Array, denominator: Array) -> Array:
    """Division that gives 0 for an empty denominator, with a zero gradient instead of NaN."""
    return numerator / jnp.maximum(denominator, 1.0)
