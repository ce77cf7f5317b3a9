"""Representation rerouting, the training of circuit breakers (arXiv 2406.04313, algorithm 1).

    Rerouting   (1 - k / horizon) * mean over layers and positions of relu(cos(h(forget), h_reference(forget)))
    Tether           k / horizon  * mean over layers and positions of |h(retain) - h_reference(retain)|

h is the residual stream after a decoder block, and k = 1, 2, ... the number of the update. Early updates turn harmful
activations away from where they were, later ones bring harmless activations back. With alpha as weight of both this is
the paper's c_s = alpha (1 - t / 2T), c_r = alpha t / 2T, when `horizon` is twice the number of updates.

Source: GraySwanAI/circuit-breakers src/lorra_circuit_breaker.py, as kept in ks-fahad/CircuitBreakers@07e936d. There the
horizon is 300 whatever the number of updates (150 in the published scripts), `target_layers` count the embeddings as 0
(10 is block 9 here), the retain mean is over all layers up to the last target, embeddings and padding too, and only
LoRA adapters train. Here padding never counts, and what trains is the caller's choice.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.objective import Term
from vlm_mu_jax.objectives.reading import Metrics, Policy, Read, Reading, Rows, Totals, class_mask
from vlm_mu_jax.objectives.reductions import ratio
from vlm_mu_jax.objectives.rmu import check_positions, sorted_layers

POSITIONS = ("image", "prompt", "answer")


class _Rerouted(Term):
    """What both terms share: the schedule, and a mean over layers and positions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(self.positions))
        object.__setattr__(self, "layers", sorted_layers(self.layers))
        check_positions(self.positions)
        if self.horizon < 1:
            raise InputError(f"objective.horizon: {self.horizon} must be at least 1")

    def reads(self) -> dict[str, Read]:
        return {self.stream: Read(layers=self.layers, reference=True)}

    def duals(self) -> dict[str, Array]:
        return {"rerouting_progress": jnp.float32(min(1.0, 1 / self.horizon))}

    def next_duals(self, duals: Mapping[str, Array], metrics: Metrics, step: Array) -> dict[str, Array]:
        return {"rerouting_progress": jnp.minimum(1.0, (step + 2) / self.horizon).astype(jnp.float32)}

    def denominators(self, rows: Rows, image_token_id: int | None) -> Totals:
        mask_BT = class_mask(rows[self.stream], image_token_id, self.positions)
        return {f"{self.stream}_positions": mask_BT.astype(jnp.float32).sum()}

    def _mean(self, values: list[Array], policy: Policy, rows: Rows, totals: Totals) -> Array:
        """Mean of [B, T] values per layer over layers and counted positions."""
        mask_BT = class_mask(rows[self.stream], policy.image_token_id, self.positions)
        total = sum(jnp.where(mask_BT, value_BT, 0.0).sum() for value_BT in values)
        return ratio(total, totals[f"{self.stream}_positions"]) / len(values)


@dataclasses.dataclass(frozen=True)
class Rerouting(_Rerouted):
    """The forget term.

    Attributes:
      layers: 0-based decoder blocks whose outputs are rerouted.
      positions: token classes that count, here and in Tether.
      horizon: the update at which the weight of this term has reached 0 and that of Tether 1.
    """

    stream: ClassVar[str] = "forget"
    layers: tuple[int, ...]
    positions: tuple[str, ...] = POSITIONS
    horizon: int = 300

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        reading = seen["forget"]
        cosines = [jax.nn.relu(_cosine(reading.hidden[n], reading.reference[n])) for n in self.layers]
        value = self._mean(cosines, policy, rows, totals)
        return (1 - policy.constants["rerouting_progress"]) * value, {"rerouting_cosine": value}


@dataclasses.dataclass(frozen=True)
class Tether(_Rerouted):
    """The term on data to keep: the distance itself, where Hold takes its square."""

    layers: tuple[int, ...]
    positions: tuple[str, ...] = POSITIONS
    horizon: int = 300
    stream: str = "retain"

    def loss(self, policy: Policy, seen: Mapping[str, Reading], rows: Rows, totals: Totals) -> tuple[Array, Metrics]:
        reading = seen[self.stream]
        distances = [_distance(reading.hidden[n], reading.reference[n]) for n in self.layers]
        value = self._mean(distances, policy, rows, totals)
        return policy.constants["rerouting_progress"] * value, {"tether_distance": value}


def _cosine(a_BTD: Array, b_BTD: Array) -> Array:
    """float32 [B, T]."""
    a, b = a_BTD.astype(jnp.float32), b_BTD.astype(jnp.float32)
    lengths = jnp.square(a).sum(axis=-1) * jnp.square(b).sum(axis=-1)
    return (a * b).sum(axis=-1) * jax.lax.rsqrt(jnp.maximum(lengths, 1e-24))


def _distance(a_BTD: Array, b_BTD: Array) -> Array:
    """float32 [B, T]; the gradient where both are equal is 0, as torch.norm has it."""
    squared = jnp.square(a_BTD.astype(jnp.float32) - b_BTD.astype(jnp.float32)).sum(axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
