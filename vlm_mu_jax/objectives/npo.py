"""Negative preference optimisation (NPO, arXiv 2404.05868) and its relatives SimNPO and the seed's preference term.

    NPO         mean of -(2 / beta) log sigmoid(beta r),   r = NLL_current - NLL_reference of the harmful answer
    SimNPO      mean of -(2 / beta) log sigmoid(beta (NLL_current / tokens - delta))           arXiv 2410.07163
    Preference  mean of +(2 / beta) log sigmoid(beta r) on retain data

What is called r differs between public codes; `reduction` names it:
  sequence_sum      r per example, NLL summed over its answer tokens (the NPO authors, open-unlearning, gemma)
  token_mean        r per example, NLL averaged over its answer tokens (thu-coai/SafeUnlearning)
  batch_token_mean  one r and one sigmoid per batch, NLL averaged over all its tokens (VLM-Safety-Unlearn, MLLMU-Bench).
                    Its value depends on which examples share a batch, so it refuses gradient accumulation.
MUSE's variant on raw logits is not a function of the model's distribution (subtracting a constant from all logits
lowers it) and is left out.

Two named readings of the Safety Mirage paper (arXiv 2503.11832):
  as_paper  eq. 3: sequence_sum, no preference term on retain data
  as_code   OPTML-Group/VLM-Safety-Unlearn@1f89239: batch_token_mean and `retain_preference` 1

The default is as_paper. Its gate closes per example: an answer that is already forgotten is pushed no further, while
its neighbours still are. The loss also stays the same when the same examples are batched differently. beta cannot be
carried over between readings: with T answer tokens, beta on sums acts like beta * T on token means.
The gradient with respect to NLL_current is -2 sigmoid(-beta r): at r = 0 NPO is gradient ascent, and so it is
everywhere for beta -> 0.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.logprobs import count
from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals
from vlm_mu_jax.objectives.reductions import check_reduction, denominators, ratio, token_mean
from vlm_mu_jax.objectives.token_losses import NLL

READINGS = {
    "as_paper": {"reduction": "sequence_sum", "retain_preference": 0.0},
    "as_code": {"reduction": "batch_token_mean", "retain_preference": 1.0},
}


def log_ratio(nll_B: Array, reference_B: Array, count_B: Array, reduction: str) -> Array:
    """r = NLL_current - NLL_reference: [B], or [1] for batch_token_mean. NLL sums in nats per example."""
    if reduction == "sequence_sum":
        return nll_B - reference_B
    if reduction == "token_mean":
        return ratio(nll_B - reference_B, count_B)
    return ratio((nll_B - reference_B).sum(keepdims=True), count_B.sum(keepdims=True))


def forget_terms(r: Array, beta: float, scaled: bool = True) -> Array:
    """-(2 / beta) log sigmoid(beta r), elementwise; without the factor 2 / beta when not `scaled` (gemma's form)."""
    return -(2.0 / beta if scaled else 1.0) * jax.nn.log_sigmoid(beta * r)


def check_beta(name: str, beta: float) -> None:
    if not beta > 0:
        raise InputError(f"objective.{name} must be above 0, not {beta}")


class _Ratios(Term):
    """What the terms on log-ratios of one stream share. Subclasses set `stream` and `reduction`."""

    @property
    def couples_batch(self) -> bool:
        return self.reduction == "batch_token_mean"

    @property
    def reference_nll_streams(self) -> tuple[str, ...]:
        return (self.stream,)

    def reads(self) -> dict[str, Read]:
        return {self.stream: Read((NLL(),))}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators(self.stream, rows[self.stream])

    def _ratio(self, seen: Mapping[str, Reading], rows: Rows) -> Array:
        batch, nll_B = rows[self.stream], seen[self.stream].sums[NLL()]
        return log_ratio(nll_B, batch.reference_nll_B, count(batch.mask_BT), self.reduction)

    def _mean(self, values: Array, totals: Totals) -> Array:
        """Mean over examples; the one value of a coupled batch is its own mean."""
        return values.sum() if self.couples_batch else ratio(values.sum(), totals[f"{self.stream}_rows"])


@dataclasses.dataclass(frozen=True)
class NPO(_Ratios):
    """NPO on the stream `forget`.

    Attributes:
      reading: as_paper or as_code.
      beta: how fast the gate closes, above 0.
      reduction: what r is; None follows `reading`.
      scaled: whether the loss has the factor 2 / beta.
    """

    stream: ClassVar[str] = "forget"
    reading: str = "as_paper"
    beta: float = 0.1
    reduction: str | None = None
    scaled: bool = True

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise InputError(f"objective.reading: {self.reading!r} is unknown; use one of {', '.join(READINGS)}")
        if self.reduction is None:
            object.__setattr__(self, "reduction", READINGS[self.reading]["reduction"])
        check_reduction("reduction", self.reduction)
        check_beta("beta", self.beta)

    @property
    def retain_preference(self) -> float:
        """Weight of the preference term in this reading."""
        return READINGS[self.reading]["retain_preference"]

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        r = self._ratio(seen, rows)
        value = self._mean(forget_terms(r, self.beta, self.scaled), totals)
        gate = self._mean(2 * jax.nn.sigmoid(-self.beta * r), totals)  # 1: gradient ascent, 0: left alone
        nll = token_mean("forget", seen["forget"].sums[NLL()], totals)
        return value, {"forget_loss": value, "forget_nll": nll, "forget_gate": gate}


@dataclasses.dataclass(frozen=True)
class Preference(_Ratios):
    """The seed's term on `retain`: lower when the answer becomes likelier than before training.

    UNBOUNDED below (it tends to 2 r for r -> -inf), gradient +1 at r = 0: with weight 1 it doubles the gradient of the
    retain cross-entropy at the start. In the logged total it cancels NPO's start value while the gradients do not.
    Source: OPTML-Group/VLM-Safety-Unlearn@1f89239 llava/train/llava_unlearn_full_trainer.py.
    """

    beta: float = 0.1
    reduction: str = "sequence_sum"
    scaled: bool = True
    stream: str = "retain"

    def __post_init__(self) -> None:
        check_beta("preference_beta", self.beta)

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        value = -self._mean(forget_terms(self._ratio(seen, rows), self.beta, self.scaled), totals)
        return value, {f"{self.stream}_preference_loss": value}


@dataclasses.dataclass(frozen=True)
class SimNPO(Term):
    """NPO without a reference: r is the mean NLL per answer token minus the margin `delta`, in nats per token.

    Defaults as in locuslab/open-unlearning (beta 4.5, delta 0), whose forget_weight is 0.125; the authors' TOFU
    settings are beta 2.5, forget_weight 0.1375. It equals NPO with reduction token_mean and a reference of delta nats
    for every token. Their MUSE code works on raw logits instead and is not meant here.
    """

    beta: float = 4.5
    delta: float = 0.0

    def __post_init__(self) -> None:
        check_beta("beta", self.beta)

    def reads(self) -> dict[str, Read]:
        return {"forget": Read((NLL(),))}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators("forget", rows["forget"])

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        nll_B = seen["forget"].sums[NLL()]
        r = ratio(nll_B, count(rows["forget"].mask_BT)) - self.delta
        value = ratio(forget_terms(r, self.beta).sum(), totals["forget_rows"])
        gate = ratio(2 * jax.nn.sigmoid(-self.beta * r).sum(), totals["forget_rows"])
        nll = token_mean("forget", nll_B, totals)
        return value, {"forget_loss": value, "forget_nll": nll, "forget_gate": gate}
