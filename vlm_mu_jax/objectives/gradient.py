"""Baselines: gradient ascent (GA) and gradient difference (GradDiff) with an NLL or a masked KL retain term.

    GA        -CE(forget)                                  unbounded below; a baseline only
    GradDiff  -forget_weight * CE(forget) + retain_weight * R,   R = CE(retain) or KL(reference || current) on retain

Both use one combined loss per step, as open-unlearning; MLLMU-Bench alternates whole passes under the same name,
which is another algorithm. CE and KL are means over the answer tokens of the global batch.
"""

import dataclasses

from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.policy import Metrics, Policy, Totals, ratio, scored_tokens


@dataclasses.dataclass(frozen=True)
class GradientAscent:
    """-CE on the `forget` stream."""

    streams = ("forget",)
    optional_streams = ()
    needs_reference = False
    reference_nll_streams = ()
    couples_batch = False

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {}

    def denominators(self, rows: dict, image_token_id: int | None) -> Totals:
        return {"forget_tokens": scored_tokens(rows["forget"])}

    def loss(self, policy: Policy, rows: dict, totals: Totals) -> tuple[Array, Metrics]:
        nll_B, _ = policy.nll(rows["forget"])
        forget_nll = ratio(nll_B.sum(), totals["forget_tokens"])
        return -forget_nll, {"forget_nll": forget_nll}


@dataclasses.dataclass(frozen=True)
class GradDiff:
    """Ascent on `forget`, descent on `retain`; `retain_term` is "nll" or "kl"."""

    retain_term: str = "nll"
    forget_weight: float = 1.0
    retain_weight: float = 1.0

    streams = ("forget", "retain")
    optional_streams = ()
    reference_nll_streams = ()
    couples_batch = False

    def __post_init__(self) -> None:
        if self.retain_term not in ("nll", "kl"):
            raise InputError(f"objective.retain_term: {self.retain_term!r} is unknown; use nll or kl")

    @property
    def needs_reference(self) -> bool:
        return self.retain_term == "kl"

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {}

    def denominators(self, rows: dict, image_token_id: int | None) -> Totals:
        return {f"{name}_tokens": scored_tokens(batch) for name, batch in rows.items()}

    def loss(self, policy: Policy, rows: dict, totals: Totals) -> tuple[Array, Metrics]:
        nll_B, _ = policy.nll(rows["forget"])
        retain_B, _ = (policy.kl if self.retain_term == "kl" else policy.nll)(rows["retain"])
        forget_nll = ratio(nll_B.sum(), totals["forget_tokens"])
        retain = ratio(retain_B.sum(), totals["retain_tokens"])
        loss = self.retain_weight * retain - self.forget_weight * forget_nll
        return loss, {"forget_nll": forget_nll, f"retain_{self.retain_term}": retain}
