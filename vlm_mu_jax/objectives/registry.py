"""Objectives by name."""

import dataclasses
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.gradient import GradDiff, GradientAscent
from vlm_mu_jax.objectives.npo import NPO
from vlm_mu_jax.objectives.rmu import RMU
from vlm_mu_jax.objectives.sft import SFT

OBJECTIVES: dict[str, type] = {
    "lm": SFT,  # the same loss; what differs is the data and its mask
    "sft": SFT,
    "npo": NPO,
    "rmu": RMU,
    "ga": GradientAscent,
    "graddiff": GradDiff,
}


def make_objective(name: str, **options: Any) -> Any:
    """The objective `name` with its options, e.g. `make_objective("npo", beta=3.0, retain_weight=5.0)`.

    Raises:
      InputError: unknown name, unknown option, or a missing or bad value.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective.name: {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    fields = {field.name: field for field in dataclasses.fields(OBJECTIVES[name])}
    for option in options:
        if option not in fields:
            raise InputError(
                f"objective.{option} is no option of {name!r}; its options are {', '.join(fields) or 'none'}"
            )
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in options:
            raise InputError(f"objective.{field.name} is required by {name!r}; set it in the config")
    return OBJECTIVES[name](**options)
