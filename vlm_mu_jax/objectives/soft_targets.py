"""Forget terms that lead the model to a distribution without the answer: UNDIAL, CE-U and the flat logits of PDU.

    UNDIAL  mean of CE(softmax(z_ref - beta onehot(y)), p)     arXiv 2402.10052; self-distillation, bounded
    CE-U    mean of CE(softmax(z without y), p)                arXiv 2503.01224; no reference, bounded
    Flat    mean of (max_v z - mean_v z)^2                     the forget loss of PDU, arXiv 2506.05314; bounded

z are the logits at an answer token y, z_ref those of the model before training, and CE is in nats. The mean is over the
answer tokens of the step unless `reduction` says otherwise.

Prompt and padding positions never count. In locuslab/open-unlearning UNDIAL has no mask: label -100 lowers the logit of
an arbitrary token there, and those positions dominate its mean. Its mask for PDU is one position late.

UNDIAL needs the weights before training in every step. With LoRA or trained slices the frozen weights are these. Where
parameters train whole, their start values are kept as a second copy.
"""

import dataclasses

from vlm_mu_jax.objectives.gradient import TokenForget
from vlm_mu_jax.objectives.token_losses import Distilled, Flatness, TokenLoss, WithoutLabel


@dataclasses.dataclass(frozen=True)
class UNDIAL(TokenForget):
    """Self-distillation with the answer token's logit lowered by beta."""

    beta: float = 10.0

    def token_loss(self) -> TokenLoss:
        return Distilled(self.beta)


@dataclasses.dataclass(frozen=True)
class CEU(TokenForget):
    """Cross-entropy to the model's own distribution without the answer token; skip: first answer tokens left out."""

    skip: int = 1

    def token_loss(self) -> TokenLoss:
        return WithoutLabel(self.skip)


@dataclasses.dataclass(frozen=True)
class Flat(TokenForget):
    """Flat logits. With a `retain_limit` (see keep.Constrained) this is PDU."""

    def token_loss(self) -> TokenLoss:
        return Flatness()
