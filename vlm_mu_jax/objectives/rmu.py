"""Representation misdirection for unlearning (RMU, arXiv 2403.03218) for vision-language models.

    unlearn = mean over positions of |h(forget) - c u|^2       h = residual stream after decoder block `layer`
    hold    = mean over positions of |h(retain) - h_reference(retain)|^2
    total   = forget_weight * unlearn + retain_alpha * hold + retain_weight * CE(retain) + general_weight * CE(general)

u is one unit vector for the whole run, drawn once from `seed` and stored with the run, so that a model can be checked
against its own target later. `uniform` draws from [0, 1)^D as the paper and every public code do (all entries
positive: its cosine with the all-ones direction is 0.87 at D = 4096); `normal` draws an isotropic direction.

Two named readings of the Safety Mirage paper (arXiv 2503.11832):
  as_paper  eq. 2: squared norm (sum over D), every real position (image, prompt, answer)
  as_code   OPTML-Group/VLM-Safety-Unlearn: mean over D, and padding positions count like any other

The default is as_paper: padding never changes the loss, whereas under as_code a row's loss depends on the longest
row of its batch. The price is a factor D between the two, so weights cannot be carried over. `width_reduction` and
`positions` override either choice alone: as_code with positions=("image", "prompt", "answer") is the seed code's
scale without its padding. Losses and the vector are float32 (the code: bfloat16).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.policy import TOKEN_CLASSES, Metrics, Policy, Totals, class_mask, ratio, scored_tokens

READINGS = {
    "as_paper": {"width_reduction": "sum", "positions": ("image", "prompt", "answer")},
    "as_code": {"width_reduction": "mean", "positions": ("image", "prompt", "answer", "padding")},
}


def control_vector(width: int, scale: float, seed: int, distribution: str = "uniform") -> Array:
    """c * u: float32 [D] with norm `scale`."""
    key = jax.random.key(seed)
    draw = {"uniform": jax.random.uniform, "normal": jax.random.normal}[distribution]
    v_D = draw(key, (width,), jnp.float32)
    return scale * v_D / jnp.linalg.norm(v_D)


def squared_distance(h_BTD: Array, target_BTD: Array, mask_BT: Array, width_reduction: str) -> Array:
    """Squared distances summed over the masked positions; sum or mean over D. float32 scalar."""
    squares_BTD = jnp.square(h_BTD.astype(jnp.float32) - target_BTD.astype(jnp.float32))
    per_position_BT = squares_BTD.sum(axis=-1) if width_reduction == "sum" else squares_BTD.mean(axis=-1)
    return jnp.where(mask_BT, per_position_BT, 0.0).sum()


@dataclasses.dataclass(frozen=True)
class RMU:
    """RMU on the `forget` stream, activations and cross-entropy held on `retain` (and `general`, when given).

    layer: 0-based decoder block whose output is steered; c: norm of the target. Fields left None follow `reading`.
    """

    layer: int
    reading: str = "as_paper"
    c: float = 10.0
    distribution: str = "uniform"
    width_reduction: str | None = None
    positions: tuple[str, ...] | None = None
    forget_weight: float = 1.0
    retain_alpha: float = 1.0
    retain_weight: float = 1.0
    general_weight: float = 1.0

    streams = ("forget", "retain")
    optional_streams = ("general",)
    reference_nll_streams = ()
    couples_batch = False

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise InputError(f"objective.reading: {self.reading!r} is unknown; use one of {', '.join(READINGS)}")
        for name, value in READINGS[self.reading].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "positions", tuple(self.positions))
        if self.width_reduction not in ("sum", "mean"):
            raise InputError(f"objective.width_reduction: {self.width_reduction!r} is unknown; use sum or mean")
        if self.distribution not in ("uniform", "normal"):
            raise InputError(f"objective.distribution: {self.distribution!r} is unknown; use uniform or normal")
        if not self.positions or not set(self.positions) <= set(TOKEN_CLASSES):
            raise InputError(f"objective.positions: {self.positions} must name some of {', '.join(TOKEN_CLASSES)}")

    @property
    def needs_reference(self) -> bool:
        return bool(self.retain_alpha)

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {"control_D": control_vector(width, self.c, seed, self.distribution)}

    def denominators(self, rows: dict, image_token_id: int | None) -> Totals:
        totals = {f"{name}_tokens": scored_tokens(batch) for name, batch in rows.items()}
        for name in ("forget", "retain"):
            mask_BT = class_mask(rows[name], image_token_id, self.positions)
            totals[f"{name}_positions"] = mask_BT.astype(jnp.float32).sum()
        return totals

    def loss(self, policy: Policy, rows: dict, totals: Totals) -> tuple[Array, Metrics]:
        hidden_BTD = policy.hidden(rows["forget"], self.layer)
        control_BTD = jnp.broadcast_to(policy.constants["control_D"], hidden_BTD.shape)
        unlearn = self._mean_distance(policy, rows, "forget", hidden_BTD, control_BTD, totals)
        loss = self.forget_weight * unlearn
        metrics = {"unlearn_loss": unlearn}
        if self.retain_alpha:
            reference_BTD = jax.lax.stop_gradient(policy.reference_hidden(rows["retain"], self.layer))
            current_BTD = policy.hidden(rows["retain"], self.layer)
            metrics["hold_loss"] = self._mean_distance(policy, rows, "retain", current_BTD, reference_BTD, totals)
            loss = loss + self.retain_alpha * metrics["hold_loss"]
        for name, weight in (("retain", self.retain_weight), ("general", self.general_weight)):
            if name in rows and weight:
                nll_B, _ = policy.nll(rows[name])
                metrics[f"{name}_nll"] = ratio(nll_B.sum(), totals[f"{name}_tokens"])
                loss = loss + weight * metrics[f"{name}_nll"]
        return loss, metrics

    def _mean_distance(self, policy: Policy, rows: dict, name: str, h: Array, target: Array, totals: Totals) -> Array:
        mask_BT = class_mask(rows[name], policy.image_token_id, self.positions)
        return ratio(squared_distance(h, target, mask_BT, self.width_reduction), totals[f"{name}_positions"])
