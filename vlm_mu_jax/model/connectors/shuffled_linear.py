"""Pixel shuffle and one linear map: square blocks of neighbouring states become one image token (Idefics3, SmolVLM)."""

import dataclasses
from typing import ClassVar

from jax import Array

from vlm_mu_jax.model.connectors.shuffled_mlp import pixel_shuffle
from vlm_mu_jax.model.layers import linear
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import LINEAR, Row

NAMES = (Row("{connector}modality_projection.proj.weight", "projector/w_ED", LINEAR),)


@dataclasses.dataclass(frozen=True)
class ShuffledLinear:
    """See `connector.Connector`. factor: states along one side of a block."""

    factor: int
    writes: ClassVar[tuple[str, ...]] = ("w_ED",)

    def tokens(self, P: int) -> int:
        return P // self.factor**2

    def specs(self, E: int, D: int) -> Specs:
        return {"w_ED": ParamSpec((E * self.factor**2, D), (None, "embed"))}

    def project(self, params: Params, states_BMPE: Array) -> Array:
        return linear(pixel_shuffle(states_BMPE, self.factor), params["w_ED"], None)

    def extra(self, params: Params) -> None:
        return None

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        return {"w_ED": E * self.factor**2 * D}

    def problems(self) -> list[str]:
        return []
