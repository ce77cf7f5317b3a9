"""Losses of one answer token as functions of the logits that predict it, all in nats (but `Flatness`) and float32.

Each is evaluated on pieces of a row (`logprobs.answer_sums`), so the [B, T, V] logits never exist at once, and summed
per example; the terms of an objective choose the reduction. z are logits, y the token, p = softmax(z).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class TokenLoss:
    """Base. uses_reference: whether `reference` logits, those of the model before training, are given."""

    uses_reference: ClassVar[bool] = False

    def scored(self, mask_BT: Array) -> Array:
        """Which of the loss tokens count."""
        return mask_BT

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        """[..., V] logits, [...] token ids -> [...] losses."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class NLL(TokenLoss):
    """-log p_y."""

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        return jax.nn.logsumexp(logits, axis=-1) - _at(logits, tokens)


@dataclasses.dataclass(frozen=True)
class KL(TokenLoss):
    """KL(reference || current) = sum_v p_ref (log p_ref - log p).

    The direction of open-unlearning and of the NPO authors; unlike theirs it is masked (prompt and padding positions
    count nothing) and made from log-softmax, so a constant added to all logits changes nothing.
    """

    uses_reference: ClassVar[bool] = True

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        current, before = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(reference, axis=-1)
        return (jnp.exp(before) * (before - current)).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class WeightedNLL(TokenLoss):
    """sg(p_y^sure (1 - p_y)^unsure) * -log p_y, the weight without gradient.

    sure: an unlikely token stops counting. unsure: a token that the model is certain of counts little.
    Source: locuslab/open-unlearning@d3d7cf9 src/trainer/utils.py (WGA: sure = beta; SatImp: sure = b1, unsure = b2).
    """

    sure: float
    unsure: float = 0.0

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        nll = NLL()(logits, tokens, None)
        positive = jnp.maximum(nll, 0.0)  # rounding may leave -1e-7, and a power of a negative number is NaN
        weight = jnp.exp(-self.sure * positive) * jnp.power(-jnp.expm1(-positive), self.unsure)
        return jax.lax.stop_gradient(weight) * nll


@dataclasses.dataclass(frozen=True)
class WithoutLabel(TokenLoss):
    """Cross-entropy to the model's own distribution with the answer token left out: -sum_v q_v log p_v.

    q = sg(softmax(z with z_y = -inf)). skip: the first answer tokens of a row, which do not count.
    Source: CE-U, arXiv 2503.01224.
    """

    skip: int = 1

    def scored(self, mask_BT: Array) -> Array:
        return mask_BT & (jnp.cumsum(mask_BT.astype(jnp.int32), axis=-1) > self.skip)

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        label = jax.nn.one_hot(tokens, logits.shape[-1], dtype=bool)
        target = jax.nn.softmax(jnp.where(label, -jnp.inf, jax.lax.stop_gradient(logits)), axis=-1)
        return -(target * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Distilled(TokenLoss):
    """Cross-entropy to the reference with the answer token's logit lowered: -sum_v q_v log p_v.

    q = softmax(z_ref - beta * onehot(y)). Source: UNDIAL, arXiv 2402.10052.
    """

    beta: float

    uses_reference: ClassVar[bool] = True

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        label = jax.nn.one_hot(tokens, logits.shape[-1], dtype=bool)
        target = jax.nn.softmax(jnp.where(label, reference - self.beta, reference), axis=-1)
        return -(target * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Flatness(TokenLoss):
    """(max_v z_v - mean_v z_v)^2 in squared logits; 0 for a uniform distribution. Source: PDU, arXiv 2506.05314."""

    def __call__(self, logits: Array, tokens: Array, reference: Array | None) -> Array:
        return jnp.square(logits.max(axis=-1) - logits.mean(axis=-1))


def _at(logits: Array, tokens: Array) -> Array:
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
