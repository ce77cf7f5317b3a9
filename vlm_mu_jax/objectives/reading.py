"""What an objective may ask of the model that trains, and the token classes it may tell apart.

Objectives know nothing of parameters. For every stream they say what they want to know (`Read`). `training/` answers
with a `Reading`, from as few forward passes as it can. Tests answer from given logits.

Every loss is a sum over the rows it gets, divided by `totals`: its `denominators`, summed over the whole step.
Denominators depend on masks alone. Splitting a batch into micro-batches therefore changes nothing, even when they have
unequal token counts.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.objectives.token_losses import TokenLoss

if TYPE_CHECKING:
    from vlm_mu_jax.data.batches import TrainBatch

Rows = Mapping[str, "TrainBatch"]  # by stream name
Totals = dict[str, Array]  # scalars
Metrics = dict[str, Array]  # scalars that add up over micro-batches

TOKEN_CLASSES = ("image", "prompt", "answer", "padding")


@dataclasses.dataclass(frozen=True)
class Read:
    """What is asked about the rows of one stream.

    Attributes:
      tokens: losses to be summed over the loss tokens of every row.
      layers: 0-based decoder blocks whose outputs (the residual stream after each) are wanted, in order.
      reference: whether these activations are also wanted under the weights before training.
    """

    tokens: tuple[TokenLoss, ...] = ()
    layers: tuple[int, ...] = ()
    reference: bool = False

    def __or__(self, other: "Read") -> "Read":
        """Everything that either of two terms asks of the same stream."""
        tokens = tuple(dict.fromkeys((*self.tokens, *other.tokens)))
        layers = tuple(sorted({*self.layers, *other.layers}))
        return Read(tokens, layers, self.reference or other.reference)

    @property
    def needs_reference(self) -> bool:
        """Whether the weights before training are needed in every step."""
        return self.reference or any(loss.uses_reference for loss in self.tokens)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The answer to a `Read`.

    Attributes:
      sums: float32 [B] per token loss.
      hidden: [B, T, D] by layer: the residual stream after each layer that was asked for, under the weights in
        training.
      reference: the same under the weights before training.
    """

    sums: Mapping[TokenLoss, Array]
    hidden: Mapping[int, Array] = dataclasses.field(default_factory=dict)
    reference: Mapping[int, Array] = dataclasses.field(default_factory=dict)


class Policy(Protocol):
    """The model as an objective sees it.

    Attributes:
      constants: what the objective's `constants` and `duals` returned.
      image_token_id: id of the image placeholder, None for a text-only model.
    """

    constants: Mapping[str, Array]
    image_token_id: int | None

    def read(self, rows: Rows, reads: Mapping[str, Read]) -> dict[str, Reading]:
        """Readings by stream name."""


def class_mask(rows: "TrainBatch", image_token_id: int | None, classes: tuple[str, ...]) -> Array:
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
