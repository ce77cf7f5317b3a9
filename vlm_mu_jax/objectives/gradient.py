"""Forget terms that ascend the loss of the harmful answer: GA, WGA and SatImp.

    GA      -mean nll                                  unbounded below: a baseline; with a retain term it is GradDiff
    WGA     -mean sg(p^beta) nll                       arXiv 2502.19301; unlikely tokens stop counting
    SatImp  -mean sg(p^beta1 (1 - p)^beta2) nll        arXiv 2505.11953; so do tokens the model is still certain of

nll in nats of an answer token, p = exp(-nll), sg = stop-gradient; the mean is over the answer tokens of the step unless
`reduction` says otherwise. Source: locuslab/open-unlearning@d3d7cf9 src/trainer/unlearn/. MLLMU-Bench calls GradDiff
what alternates whole passes of ascent and descent; that is another algorithm.
"""

import dataclasses
from collections.abc import Mapping

from jax import Array

from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals
from vlm_mu_jax.objectives.reductions import check_reduction, denominators, reduced, token_mean
from vlm_mu_jax.objectives.token_losses import NLL, TokenLoss, WeightedNLL


@dataclasses.dataclass(frozen=True)
class TokenForget(Term):
    """Base of forget terms that add up over answer tokens; subclasses name the token loss."""

    reduction: str = "batch_token_mean"

    def __post_init__(self) -> None:
        check_reduction("reduction", self.reduction)

    def token_loss(self) -> TokenLoss:
        """What is minimised."""
        raise NotImplementedError

    def reads(self) -> dict[str, Read]:
        return {"forget": Read((self.token_loss(), NLL()))}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators("forget", rows["forget"], self.token_loss())

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        sums, token_loss = seen["forget"].sums, self.token_loss()
        value = reduced("forget", sums[token_loss], rows["forget"], token_loss, self.reduction, totals)
        return value, {"forget_loss": value, "forget_nll": token_mean("forget", sums[NLL()], totals)}


class Ascent(TokenForget):
    """Base of forget terms whose token loss is to grow."""

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        value, metrics = super().loss(policy, seen, rows, totals)
        return -value, {**metrics, "forget_loss": -value}


@dataclasses.dataclass(frozen=True)
class GA(Ascent):
    """Gradient ascent on `forget`."""

    def token_loss(self) -> TokenLoss:
        return NLL()


@dataclasses.dataclass(frozen=True)
class WGA(Ascent):
    """Weighted gradient ascent; beta 0 is GA."""

    beta: float = 1.0

    def token_loss(self) -> TokenLoss:
        return WeightedNLL(self.beta)


@dataclasses.dataclass(frozen=True)
class SatImp(Ascent):
    """Saturation- and importance-weighted ascent; beta2 0 is WGA."""

    beta1: float = 5.0
    beta2: float = 1.0

    def token_loss(self) -> TokenLoss:
        return WeightedNLL(self.beta1, self.beta2)
