"""Terms on data the model must keep: cross-entropy, masked KL to the model before training, a primal-dual weight.

The activation term stands in rmu.py and the seed's preference term in npo.py, beside the forget terms they belong to.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals
from vlm_mu_jax.objectives.reductions import denominators, token_mean
from vlm_mu_jax.objectives.token_losses import KL, NLL


@dataclasses.dataclass(frozen=True)
class CE(Term):
    """Mean NLL per answer token of the step, in nats: what Hugging Face calls the loss of a causal model.

    The mean is over all answer tokens of the step, whatever the number of devices or micro-batches. On the stream
    `train` it is the whole objective of pretraining (lm) and of visual instruction and safety fine-tuning (sft).
    """

    stream: str

    def reads(self) -> dict[str, Read]:
        return {self.stream: Read((NLL(),))}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators(self.stream, rows[self.stream])

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        nll = token_mean(self.stream, seen[self.stream].sums[NLL()], totals)
        return nll, {f"{self.stream}_nll": nll}


@dataclasses.dataclass(frozen=True)
class KLToReference(Term):
    """Mean of KL(reference || current) over the answer tokens of the step, in nats.

    At the start of training it is 0, with zero gradient. Public codes count prompts and padding, and divide by all
    positions (open-unlearning, the NPO authors, SafeEraser) or by the batch size (MLLMU-Bench). MUSE takes raw logits,
    which is no KL divergence.

    It needs the weights before training in every step. With LoRA or trained slices the frozen weights are these. Where
    parameters train whole, their start values are kept as a second copy.
    """

    stream: str = "retain"

    def reads(self) -> dict[str, Read]:
        return {self.stream: Read((KL(),))}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return denominators(self.stream, rows[self.stream])

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        kl = token_mean(self.stream, seen[self.stream].sums[KL()], totals)
        return kl, {f"{self.stream}_kl": kl}


@dataclasses.dataclass(frozen=True)
class Constrained(Term):
    """lambda * (CE(retain) - limit): the retain weight is a dual variable that holds CE(retain) at or below `limit`.

        lambda <- max(0, lambda + rate * (CE(retain) - limit))   after every step from `warmup` on

    limit in nats per token; start: lambda_0. Source: primal-dual unlearning (PDU), arXiv 2506.05314. The update uses
    the step's whole retain batch over all devices, and lambda is saved with the optimizer state (in
    locuslab/open-unlearning every rank follows its own batch and no checkpoint holds it).
    """

    limit: float
    start: float = 1.0
    rate: float = 1.0
    warmup: int = 0
    stream: str = "retain"

    def __post_init__(self) -> None:
        if self.rate < 0 or self.start < 0:
            raise InputError(f"objective: retain_weight {self.start} and dual_rate {self.rate} must be at least 0")

    def reads(self) -> dict[str, Read]:
        return CE(self.stream).reads()

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        return CE(self.stream).denominators(rows, image_token_id)

    def duals(self) -> dict[str, Array]:
        return {"retain_dual": jnp.float32(self.start)}

    def next_duals(self, duals: Mapping[str, Array], metrics: Metrics, step: Array) -> dict[str, Array]:
        moved = jnp.maximum(0.0, duals["retain_dual"] + self.rate * (metrics[f"{self.stream}_nll"] - self.limit))
        return {"retain_dual": jnp.where(step >= self.warmup, moved, duals["retain_dual"])}

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        nll, metrics = CE(self.stream).loss(policy, seen, rows, totals)
        # the share of these rows in the step, so that constants too add up over micro-batches
        share = token_mean(self.stream, CE(self.stream).denominators(rows, None)[f"{self.stream}_tokens"], totals)
        dual = policy.constants["retain_dual"]
        return dual * (nll - self.limit * share), {**metrics, "retain_dual": dual * share}
