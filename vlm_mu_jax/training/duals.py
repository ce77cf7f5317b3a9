"""Dual variables of an objective, such as the retain weight of PDU, carried from step to step.

They live inside the optimizer state. They are therefore saved and resumed with it, and all devices have the same value.
"""

from typing import Any, NamedTuple

import optax
from jax import Array

from vlm_mu_jax.objectives.objective import Objective


class WithDuals(NamedTuple):
    """Optimizer state with dual variables.

    Attributes:
      inner: the state of the optimizer itself.
      duals: scalars by name.
    """

    inner: Any
    duals: dict[str, Array]


def with_duals(optimizer: optax.GradientTransformation, objective: Objective) -> optax.GradientTransformation:
    """The optimizer, whose state also holds the objective's duals; unchanged when it has none."""
    start = objective.duals()
    if not start:
        return optimizer

    def init(params: Any) -> WithDuals:
        return WithDuals(optimizer.init(params), start)

    def update(gradients: Any, state: WithDuals, params: Any = None) -> tuple[Any, WithDuals]:
        updates, inner = optimizer.update(gradients, state.inner, params)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformation(init, update)


def duals_of(opt_state: Any) -> dict[str, Array]:
    """Dual variables in an optimizer state, by name."""
    return opt_state.duals if isinstance(opt_state, WithDuals) else {}


def advanced(opt_state: Any, objective: Objective, metrics: dict[str, Array], step: Array) -> Any:
    """The optimizer state with the duals after `step` (0-based), whose metrics are given."""
    if not isinstance(opt_state, WithDuals):
        return opt_state
    return opt_state._replace(duals=objective.next_duals(opt_state.duals, metrics, step))
