"""Negative preference optimisation (NPO, arXiv 2404.05868) with a retain loss.

    forget  = mean of -(2 / beta) * log sigmoid(beta * r),   r = NLL_current - NLL_reference of the harmful answer
    total   = forget_weight * forget + retain_weight * CE(retain) + general_weight * CE(general)
              + retain_preference * (mean of +(2 / beta) * log sigmoid(beta * r_retain))

What is called r differs between public codes; `reduction` names it:
  sequence_sum      r per example, NLL summed over its answer tokens (the NPO authors, open-unlearning, gemma)
  token_mean        r per example, NLL averaged over its answer tokens
  batch_token_mean  one r and one sigmoid per batch, NLL averaged over all its tokens (VLM-Safety-Unlearn, MLLMU-Bench).
                    Its value depends on which examples share a batch, so it refuses gradient accumulation.

Two named readings of the Safety Mirage paper (arXiv 2503.11832):
  as_paper  eq. 3: sequence_sum, no preference term on retain data
  as_code   OPTML-Group/VLM-Safety-Unlearn: batch_token_mean and retain_preference 1. That term is unbounded below.

The default is as_paper: its gate closes per example, so an answer that is already forgotten stops being pushed while
its neighbours go on, and the loss does not change when the same examples are batched differently. beta cannot be
carried over between readings: with T answer tokens, beta on sums acts like beta * T on token means.
The gradient with respect to NLL_current is -2 * sigmoid(-beta * r): at r = 0 NPO is gradient ascent.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.policy import Metrics, Policy, Totals, ratio, scored_tokens

REDUCTIONS = ("sequence_sum", "token_mean", "batch_token_mean")
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
    if reduction == "batch_token_mean":
        return ratio((nll_B - reference_B).sum(keepdims=True), count_B.sum(keepdims=True))
    raise InputError(f"objective.reduction: {reduction!r} is unknown; use one of {', '.join(REDUCTIONS)}")


def forget_terms(r: Array, beta: float, scaled: bool = True) -> Array:
    """-(2 / beta) log sigmoid(beta r), elementwise; without the factor 2 / beta when not `scaled` (gemma's form)."""
    return -(2.0 / beta if scaled else 1.0) * jax.nn.log_sigmoid(beta * r)


def preference_terms(r: Array, beta: float, scaled: bool = True) -> Array:
    """+(2 / beta) log sigmoid(beta r): the seed code's retain term, lower when the answer becomes likelier."""
    return -forget_terms(r, beta, scaled)


@dataclasses.dataclass(frozen=True)
class NPO:
    """NPO on the `forget` stream, cross-entropy on `retain` (and `general`, when given).

    Fields left None take their value from `reading`; weights multiply the terms of the module docstring.
    """

    reading: str = "as_paper"
    beta: float = 0.1
    reduction: str | None = None
    scaled: bool = True
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    general_weight: float = 1.0
    retain_preference: float | None = None

    streams = ("forget", "retain")
    optional_streams = ("general",)
    needs_reference = False

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise InputError(f"objective.reading: {self.reading!r} is unknown; use one of {', '.join(READINGS)}")
        for name, value in READINGS[self.reading].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.reduction not in REDUCTIONS:
            raise InputError(f"objective.reduction: {self.reduction!r} is unknown; use one of {', '.join(REDUCTIONS)}")
        if not self.beta > 0:
            raise InputError(f"objective.beta must be above 0, not {self.beta}")

    @property
    def couples_batch(self) -> bool:
        return self.reduction == "batch_token_mean"

    @property
    def reference_nll_streams(self) -> tuple[str, ...]:
        return ("forget", "retain") if self.retain_preference else ("forget",)

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {}

    def denominators(self, rows: dict, image_token_id: int | None) -> Totals:
        totals = {f"{name}_tokens": scored_tokens(batch) for name, batch in rows.items()}
        for name in ("forget", "retain"):
            count = 1 if self.couples_batch else rows[name].mask_BT.shape[0]
            totals[f"{name}_ratios"] = jnp.float32(count)
        return totals

    def loss(self, policy: Policy, rows: dict, totals: Totals) -> tuple[Array, Metrics]:
        nll_B, count_B = policy.nll(rows["forget"])
        r = log_ratio(nll_B, rows["forget"].reference_nll_B, count_B, self.reduction)
        forget = ratio(forget_terms(r, self.beta, self.scaled).sum(), totals["forget_ratios"])
        metrics = {
            "forget_loss": forget,
            "forget_nll": ratio(nll_B.sum(), totals["forget_tokens"]),
            "forget_gate": ratio(2 * jax.nn.sigmoid(-self.beta * r).sum(), totals["forget_ratios"]),
        }
        loss = self.forget_weight * forget
        for name, weight in (("retain", self.retain_weight), ("general", self.general_weight)):
            if name in rows and (weight or self._prefers(name)):
                loss = loss + self._keep(policy, rows, name, weight, totals, metrics)
        return loss, metrics

    def _prefers(self, name: str) -> bool:
        return name == "retain" and bool(self.retain_preference)

    def _keep(self, policy: Policy, rows: dict, name: str, weight: float, totals: Totals, metrics: Metrics) -> Array:
        """The terms on data the model must keep; one forward pass serves both."""
        nll_B, count_B = policy.nll(rows[name])
        metrics[f"{name}_nll"] = ratio(nll_B.sum(), totals[f"{name}_tokens"])
        loss = weight * metrics[f"{name}_nll"]
        if self._prefers(name):
            r = log_ratio(nll_B, rows[name].reference_nll_B, count_B, self.reduction)
            metrics["retain_preference_loss"] = ratio(
                preference_terms(r, self.beta, self.scaled).sum(), totals["retain_ratios"]
            )
            loss = loss + self.retain_preference * metrics["retain_preference_loss"]
        return loss
