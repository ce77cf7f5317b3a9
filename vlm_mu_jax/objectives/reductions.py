"""Reductions: from sums per example to one number. Three of them look alike and are not:

  sequence_sum      mean over examples of the sum over its tokens: long answers dominate
  token_mean        mean over examples of the mean over its tokens: every example counts the same
  batch_token_mean  sum over all tokens of the step over their number, as Hugging Face's `outputs.loss`: every token
                    counts the same

"The step" is all micro-batches on all devices: `totals` are summed over them before any gradient is taken.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.logprobs import count
from vlm_mu_jax.objectives.reading import Totals
from vlm_mu_jax.objectives.token_losses import TokenLoss

if TYPE_CHECKING:
    from vlm_mu_jax.data.batches import TrainBatch

REDUCTIONS = ("sequence_sum", "token_mean", "batch_token_mean")


def ratio(numerator: Array, denominator: Array) -> Array:
    """Division that gives 0 for an empty denominator, with a zero gradient instead of NaN. Denominators are counts."""
    return numerator / jnp.maximum(denominator, 1.0)


def check_reduction(name: str, reduction: str) -> None:
    """Raises InputError for a reduction that does not exist; `name` is the option."""
    if reduction not in REDUCTIONS:
        raise InputError(f"objective.{name}: {reduction!r} is unknown; use one of {', '.join(REDUCTIONS)}")


def denominators(stream: str, rows: "TrainBatch", loss: TokenLoss | None = None) -> Totals:
    """Examples and loss tokens in some rows of a stream; with `loss`, the tokens that this loss counts."""
    totals = {f"{stream}_rows": jnp.float32(rows.mask_BT.shape[0]), f"{stream}_tokens": count(rows.mask_BT).sum()}
    if loss is not None:
        totals[f"{stream}_scored"] = count(rows.mask_BT, loss).sum()
    return totals


def token_mean(stream: str, sum_B: Array, totals: Totals) -> Array:
    """The share of these rows in the mean over all loss tokens of the step."""
    return ratio(sum_B.sum(), totals[f"{stream}_tokens"])


def reduced(stream: str, sum_B: Array, rows: "TrainBatch", loss: TokenLoss, reduction: str, totals: Totals) -> Array:
    """The share of these rows in the whole step's loss, for a loss that adds up over tokens."""
    if reduction == "batch_token_mean":
        return ratio(sum_B.sum(), totals[f"{stream}_scored"])
    if reduction == "token_mean":
        sum_B = ratio(sum_B, count(rows.mask_BT, loss))
    return ratio(sum_B.sum(), totals[f"{stream}_rows"])
