"""What an objective may ask of the model that trains, and the token classes it may tell apart.

Objectives know nothing of parameters. They say what they want to know about every stream (`Read`), `training/` answers
with a `Reading` from as few forward passes as it can; tests answer from given logits. Every loss is a sum over the
rows it gets, divided by `totals`, the sums of its `denominators` over the whole step. Since denominators depend on
masks alone, splitting a batch into micro-batches with unequal token counts changes nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.objectives.token_losses import TokenLoss

Totals = dict[str, Array]  # scalars
Metrics = dict[str, Array]  # scalars that add up over micro-batches

TOKEN_CLASSES = ("image", "prompt", "answer", "padding")


@dataclasses.dataclass(frozen=True)
class Read:
    """What is asked about the rows of one stream.

    tokens: losses to be summed over the loss tokens of every row. layer: 0-based decoder block after which the residual
    stream is wanted. reference: wanted also under the weights before training.
    """

    tokens: tuple[TokenLoss, ...] = ()
    layer: int | None = None
    reference: bool = False

    def __or__(self, other: "Read") -> "Read":
        """Everything that either of two terms asks of the same stream."""
        layers = {read.layer for read in (self, other) if read.layer is not None}
        if len(layers) > 1:
            raise ValueError(f"two terms ask for different layers of one stream: {sorted(layers)}")
        tokens = tuple(dict.fromkeys((*self.tokens, *other.tokens)))
        return Read(tokens, layers.pop() if layers else None, self.reference or other.reference)

    @property
    def needs_reference(self) -> bool:
        """Whether the weights before training are needed in every step."""
        return self.reference or any(loss.uses_reference for loss in self.tokens)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The answer. sums: float32 [B] per token loss. hidden_BTD, reference_BTD: the residual stream, now and before."""

    sums: Mapping[TokenLoss, Array]
    hidden_BTD: Array | None = None
    reference_BTD: Array | None = None


class Policy(Protocol):
    """The model as an objective sees it. Rows are `vlm_mu_jax.data.batches.TrainBatch`."""

    constants: Mapping[str, Array]  # what the objective's `constants` and `duals` returned
    image_token_id: int | None

    def read(self, rows: Mapping[str, Any], reads: Mapping[str, Read]) -> dict[str, Reading]:
        """Readings by stream name."""


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
