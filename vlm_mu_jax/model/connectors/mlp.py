"""Two linear maps with an activation between them: the connector of the LLaVA families."""

import dataclasses
import math
from typing import ClassVar

from jax import Array

from vlm_mu_jax.model.layers import ACTIVATIONS, activation, layer_norm, linear
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import LINEAR, SAME, Row

NAMES = (
    Row("{connector}projector_layernorm.weight", "projector/norm_scale_E", SAME),
    Row("{connector}projector_layernorm.bias", "projector/norm_bias_E", SAME),
    Row("{linear_1}weight", "projector/w1_ED", LINEAR),
    Row("{linear_1}bias", "projector/b1_D", SAME),
    Row("{linear_2}weight", "projector/w2_DD", LINEAR),
    Row("{linear_2}bias", "projector/b2_D", SAME),
    Row("{newline}", "projector/newline_D", SAME),
)


@dataclasses.dataclass(frozen=True)
class Mlp:
    """See `connector.Connector`. newline: has a learned token for the end of a row of tiles.

    norm_eps: of a layer norm before the first map; None for no norm.
    """

    activation: str = "gelu"
    bias: bool = True
    newline: bool = False
    norm_eps: float | None = None
    writes: ClassVar[tuple[str, ...]] = ("w2_DD", "b2_D", "newline_D")

    def tokens(self, P: int) -> int:
        return P

    def specs(self, E: int, D: int) -> Specs:
        found = {"w1_ED": ParamSpec((E, D), (None, "embed")), "w2_DD": ParamSpec((D, D), (None, "embed"))}
        if self.norm_eps is not None:
            found["norm_scale_E"] = ParamSpec((E,), (None,), "ones")
            found["norm_bias_E"] = ParamSpec((E,), (None,), "zeros")
        if self.bias:
            found |= {name: ParamSpec((D,), ("embed",), "zeros") for name in ("b1_D", "b2_D")}
        if self.newline:
            found["newline_D"] = ParamSpec((D,), ("embed",))
        return found

    def project(self, params: Params, states_BMPE: Array) -> Array:
        if self.norm_eps is not None:
            states_BMPE = layer_norm(states_BMPE, params["norm_scale_E"], params["norm_bias_E"], self.norm_eps)
        h = activation(self.activation)(linear(states_BMPE, params["w1_ED"], params.get("b1_D")))
        return linear(h, params["w2_DD"], params.get("b2_D"))

    def extra(self, params: Params) -> Array | None:
        return params["newline_D"][None] if self.newline else None

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        return {"w1_ED": E * D, "w2_DD": D * D}

    def problems(self) -> list[str]:
        found = []
        if self.activation not in ACTIVATIONS:
            found.append(f"projector_hidden_act {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.norm_eps is not None and not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            found.append(f"projector_layernorm_eps is {self.norm_eps!r}, not a positive number")
        return found
