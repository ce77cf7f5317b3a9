"""Objectives by name: a forget term with its options, and the terms on data to keep, each by its weight.

    total = forget_weight * FORGET(forget)
          + retain_weight * CE(retain) + retain_kl * KL(retain) + retain_alpha * Hold(retain)
          + retain_preference * Preference(retain) + general_weight * CE(general)

A weight of 0 leaves its term out, so every forget term combines with every way to keep, and with none.
"""

import dataclasses
import typing
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.dpo import DPO
from vlm_mu_jax.objectives.gradient import GA, WGA, SatImp
from vlm_mu_jax.objectives.keep import CE, Constrained, KLToReference
from vlm_mu_jax.objectives.npo import NPO, Preference, SimNPO
from vlm_mu_jax.objectives.objective import Objective, Term
from vlm_mu_jax.objectives.rerouting import Rerouting, Tether
from vlm_mu_jax.objectives.rmu import RMU, AdaptiveRMU, Hold
from vlm_mu_jax.objectives.soft_targets import CEU, UNDIAL, Flat

TRAINING = ("lm", "sft")  # cross-entropy on the stream `train`; they differ in the data and its mask

FORGET: dict[str, type[Term]] = {
    "ga": GA,
    "graddiff": GA,
    "npo": NPO,
    "simnpo": SimNPO,
    "dpo": DPO,
    "idkdpo": DPO,
    "rmu": RMU,
    "adaptive_rmu": AdaptiveRMU,
    "rr": Rerouting,
    "undial": UNDIAL,
    "ceu": CEU,
    "wga": WGA,
    "satimp": SatImp,
    "pdu": Flat,
}
OBJECTIVES = (*TRAINING, *FORGET)

# Where a name differs from the defaults of its options.
_PRESETS: dict[str, dict[str, Any]] = {
    "ga": {"retain_weight": 0.0, "general_weight": 0.0},
    "idkdpo": {"preferred": "idk"},
    "rmu": {"retain_alpha": 1.0},
    "adaptive_rmu": {"retain_alpha": 1.0},
    "rr": {"retain_weight": 0.0, "retain_alpha": 1.0, "general_weight": 0.0},
}


@dataclasses.dataclass(frozen=True)
class Keep:
    """Weights of all terms, and options of the terms on data to keep.

    Attributes:
      forget_weight: of the forget term.
      retain_weight: of cross-entropy on `retain`.
      retain_kl: of KL on `retain` to the model before training.
      retain_alpha: of Hold, which keeps the activations of `retain` after block `hold_layer`. With rr and no
        `hold_layer` it is the weight of Tether.
      retain_preference: of the seed's term on `retain`, which is unbounded below. None follows NPO's `reading`.
      general_weight: of cross-entropy on `general`.
      hold_layer: Hold's decoder block. With RMU and adaptive RMU it defaults to their own, with their positions and
        scale.
      preference_beta: beta of the seed's term. With NPO it defaults to NPO's, and the term takes NPO's other options.
      retain_limit: nats per token. When set, retain_weight is only the start of a dual variable, see keep.Constrained.
      dual_rate: the dual variable moves by this times (CE - limit) after every step.
      dual_warmup: the first step after which it moves.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    retain_kl: float = 0.0
    retain_alpha: float = 0.0
    retain_preference: float | None = None
    general_weight: float = 1.0
    hold_layer: int | None = None
    preference_beta: float | None = None
    retain_limit: float | None = None
    dual_rate: float = 1.0
    dual_warmup: int = 0

    def __post_init__(self) -> None:
        for name in ("forget_weight", "retain_weight", "retain_kl", "retain_alpha", "general_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"objective.{name} must be at least 0, not {getattr(self, name)}")

    def terms(self, forget: Term) -> tuple[tuple[float, Term], ...]:
        """All terms of the objective whose forget term is `forget`."""
        preference = self.retain_preference
        if preference is None:
            preference = getattr(forget, "retain_preference", 0.0)
        weighted = [(self.forget_weight, forget), self._cross_entropy(), (self.general_weight, CE("general"))]
        if self.retain_kl:
            weighted.append((self.retain_kl, KLToReference()))
        if self.retain_alpha:
            weighted.append((self.retain_alpha, self._hold(forget)))
        if preference:
            weighted.append((preference, self._preference(forget)))
        return tuple((weight, term) for weight, term in weighted if weight)

    def _cross_entropy(self) -> tuple[float, Term]:
        if self.retain_limit is None:
            return self.retain_weight, CE("retain")
        return 1.0, Constrained(self.retain_limit, self.retain_weight, self.dual_rate, self.dual_warmup)

    def _hold(self, forget: Term) -> Term:
        if isinstance(forget, RMU | AdaptiveRMU):
            own = (forget.layer,) if isinstance(forget, RMU) else forget.layers
            layers = own if self.hold_layer is None else (self.hold_layer,)
            return Hold(layers, forget.width_reduction, forget.positions)
        if self.hold_layer is not None:
            return Hold((self.hold_layer,))
        if isinstance(forget, Rerouting):
            return Tether(tuple(range(max(forget.layers) + 1)), forget.positions, forget.horizon)
        raise InputError("objective.hold_layer is required with objective.retain_alpha; name a decoder block")

    def _preference(self, forget: Term) -> Term:
        if isinstance(forget, NPO):
            beta = forget.beta if self.preference_beta is None else self.preference_beta
            return Preference(beta, forget.reduction, forget.scaled)
        if self.preference_beta is None:
            raise InputError("objective.preference_beta is required with objective.retain_preference; set it")
        return Preference(self.preference_beta)


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of an objective.

    Attributes:
      kind: its type.
      default: its value where none is given; None for no value.
      required: whether a value must be given.
    """

    kind: type
    default: Any = None
    required: bool = False


def options(name: str) -> dict[str, Option]:
    """Every option of the objective `name`.

    Raises:
      InputError: unknown name.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective.name: {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    if name in TRAINING:
        return {}
    fields = [*dataclasses.fields(FORGET[name]), *dataclasses.fields(Keep)]
    found = {field.name: _option(field) for field in fields}
    for key, value in _PRESETS.get(name, {}).items():
        found[key] = dataclasses.replace(found[key], default=value)
    if name == "pdu":
        found["retain_limit"] = dataclasses.replace(found["retain_limit"], required=True)
    return found


def make_objective(name: str, **given: Any) -> Objective:
    """The objective `name` with its options, e.g. `make_objective("npo", beta=3.0, retain_weight=5.0)`.

    Raises:
      InputError: unknown name, unknown option, or a missing or bad value.
    """
    known = options(name)
    for key in given:
        if key not in known:
            raise InputError(f"objective.{key} is no option of {name!r}; its options are {', '.join(known) or 'none'}")
    values = {key: given.get(key, option.default) for key, option in known.items()}
    for key, option in known.items():
        if option.required and values[key] is None:
            raise InputError(f"objective.{key} is required by {name!r}; set it in the config")
    if name in TRAINING:
        return Objective(((1.0, CE("train")),))
    keep = {field.name: values.pop(field.name) for field in dataclasses.fields(Keep)}
    return Objective(Keep(**keep).terms(FORGET[name](**values)))


def _option(field: dataclasses.Field) -> Option:
    """What a dataclass field says; `float | None` is an optional float, a field without a default is required."""
    kinds = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    kind = kinds[0] if kinds and type(None) in typing.get_args(field.type) else field.type
    missing = field.default is dataclasses.MISSING
    return Option(typing.get_origin(kind) or kind, None if missing else field.default, missing)
