"""Representation misdirection for unlearning (RMU, arXiv 2403.03218) for vision-language models.

    RMU   mean over positions of |h(forget) - c u|^2       h = residual stream after decoder block `layer`
    Hold  mean over positions of |h(retain) - h_reference(retain)|^2

u is one unit vector for the whole run. It is drawn once from `seed` and stored with the run, so that a model can be
checked against its own target later. `uniform` draws from [0, 1)^D, as the paper and every public code do. All its
entries are positive: its cosine with the all-ones direction is 0.87 at D = 4096. `normal` draws an isotropic direction.

Adaptive RMU (arXiv 2408.06223) scales the target by what it replaces. It works at several layers at once here:

    AdaptiveRMU   mean over layers and positions of |h(forget) - scale |h_reference(forget)| u|^2

The norm is that of the reference at the same position, as the paper has it. A copy of the authors' code takes one
layer, and the mean norm of the first batch for the whole run. Its loss is a mean over the width and over padding. The
authors' own repository was not read.

Two named readings of the Safety Mirage paper (arXiv 2503.11832):
  as_paper  eq. 2: squared norm (sum over D), every real position (image, prompt, answer)
  as_code   OPTML-Group/VLM-Safety-Unlearn@1f89239: mean over D, and padding positions count like any other

The default is as_paper, because padding then never changes the loss. Under as_code the loss of a row depends on the
longest row of its batch. The two differ by a factor D, so loss weights cannot be carried over.

`width_reduction` and `positions` override the two choices one by one. For example, as_code with
  positions=("image", "prompt", "answer")  has the seed code's scale and leaves padding out
  positions=("answer",)                    scores the positions that open-unlearning means to score. The mean is
                                           another one than there: it is over all these positions of the step.
Losses and the vector are float32; the seed code has bfloat16.

Hold compares with the weights before training in every step, up to block `layer`. With LoRA or trained slices this
needs no memory, because the frozen stack still holds the originals. Where parameters train whole, their start values
are kept as a second copy.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import TOKEN_CLASSES, Metrics, Policy, Read, Reading, Rows, Totals, class_mask
from vlm_mu_jax.objectives.reductions import ratio

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
    """Squared distances, summed over the masked positions.

    Args:
      h_BTD, target_BTD: what is compared, in any floating dtype.
      mask_BT: True at positions that count.
      width_reduction: "sum" or "mean" over D.

    Returns:
      a float32 scalar.
    """
    squares_BTD = jnp.square(h_BTD.astype(jnp.float32) - target_BTD.astype(jnp.float32))
    per_position_BT = squares_BTD.sum(axis=-1) if width_reduction == "sum" else squares_BTD.mean(axis=-1)
    return jnp.where(mask_BT, per_position_BT, 0.0).sum()


def check_positions(positions: tuple[str, ...]) -> None:
    """Raises InputError unless `positions`, the option of that name, names token classes."""
    if not positions or not set(positions) <= set(TOKEN_CLASSES):
        raise InputError(f"objective.positions: {positions} must name some of {', '.join(TOKEN_CLASSES)}")


def sorted_layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    """The decoder blocks of the option `layers`, each once; raises InputError when it names none."""
    if not layers:
        raise InputError("objective.layers names no decoder block; name some, such as (1, 2)")
    return tuple(sorted(set(layers)))


def _check_choices(width_reduction: str, distribution: str) -> None:
    if width_reduction not in ("sum", "mean"):
        raise InputError(f"objective.width_reduction: {width_reduction!r} is unknown; use sum or mean")
    if distribution not in ("uniform", "normal"):
        raise InputError(f"objective.distribution: {distribution!r} is unknown; use uniform or normal")


class _Activations(Term):
    """What both terms share: a mean of squared distances over the positions of some token classes."""

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        mask_BT = class_mask(rows[self.stream], image_token_id, self.positions)
        return {f"{self.stream}_positions": mask_BT.astype(jnp.float32).sum()}

    def _mean_distance(self, policy: Policy, rows: Rows, h: Array, target: Array, totals: Totals) -> Array:
        mask_BT = class_mask(rows[self.stream], policy.image_token_id, self.positions)
        total = squared_distance(h, target, mask_BT, self.width_reduction)
        return ratio(total, totals[f"{self.stream}_positions"])


@dataclasses.dataclass(frozen=True)
class RMU(_Activations):
    """RMU on the stream `forget`.

    Attributes:
      layer: 0-based decoder block whose output is steered.
      reading: as_paper or as_code.
      c: norm of the target, in the units of the residual stream.
      distribution: of the target, uniform or normal.
      width_reduction: sum or mean over D; None follows `reading`.
      positions: token classes that count; None follows `reading`.
    """

    stream: ClassVar[str] = "forget"
    layer: int
    reading: str = "as_paper"
    c: float = 10.0
    distribution: str = "uniform"
    width_reduction: str | None = None
    positions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise InputError(f"objective.reading: {self.reading!r} is unknown; use one of {', '.join(READINGS)}")
        for name, value in READINGS[self.reading].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "positions", tuple(self.positions))
        _check_choices(self.width_reduction, self.distribution)
        check_positions(self.positions)

    def reads(self) -> dict[str, Read]:
        return {"forget": Read(layers=(self.layer,))}

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {"control_D": control_vector(width, self.c, seed, self.distribution)}

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        hidden_BTD = seen["forget"].hidden[self.layer]
        control_BTD = jnp.broadcast_to(policy.constants["control_D"], hidden_BTD.shape)
        value = self._mean_distance(policy, rows, hidden_BTD, control_BTD, totals)
        return value, {"unlearn_loss": value}


@dataclasses.dataclass(frozen=True)
class AdaptiveRMU(_Activations):
    """Adaptive RMU on the stream `forget`, at several layers.

    Attributes:
      layers: 0-based decoder blocks whose outputs are steered.
      scale: length of the target, as a multiple of the norm that the activation had before training.
      distribution: of the target's direction, uniform or normal.
      width_reduction: sum or mean over D.
      positions: token classes that count.
    """

    stream: ClassVar[str] = "forget"
    layers: tuple[int, ...]
    scale: float = 5.0
    distribution: str = "uniform"
    width_reduction: str = "sum"
    positions: tuple[str, ...] = READINGS["as_paper"]["positions"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(self.positions))
        object.__setattr__(self, "layers", sorted_layers(self.layers))
        _check_choices(self.width_reduction, self.distribution)
        check_positions(self.positions)

    def reads(self) -> dict[str, Read]:
        return {"forget": Read(layers=self.layers, reference=True)}

    def constants(self, width: int, seed: int) -> dict[str, Array]:
        return {"control_D": control_vector(width, 1.0, seed, self.distribution)}

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        reading, value = seen["forget"], jnp.float32(0.0)
        for layer in self.layers:
            norm_BT1 = jnp.linalg.norm(reading.reference[layer].astype(jnp.float32), axis=-1, keepdims=True)
            target_BTD = self.scale * norm_BT1 * policy.constants["control_D"][None, None]
            value += self._mean_distance(policy, rows, reading.hidden[layer], target_BTD, totals)
        value = value / len(self.layers)
        return value, {"unlearn_loss": value}


@dataclasses.dataclass(frozen=True)
class Hold(_Activations):
    """Keeps activations of retain data what they were before training.

    It is the retain term of RMU, and works beside any forget term. The value is the mean over the layers.
    """

    layers: tuple[int, ...]
    width_reduction: str = "sum"
    positions: tuple[str, ...] = READINGS["as_paper"]["positions"]
    stream: str = "retain"

    def reads(self) -> dict[str, Read]:
        return {self.stream: Read(layers=self.layers, reference=True)}

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        reading = seen[self.stream]
        value = sum(
            self._mean_distance(policy, rows, reading.hidden[layer], reading.reference[layer], totals)
            for layer in self.layers
        ) / len(self.layers)
        return value, {"hold_loss": value}
