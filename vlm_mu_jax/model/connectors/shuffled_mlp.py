"""Pixel shuffle before a two-layer connector: square blocks of neighbouring states become one image token."""

import dataclasses
import math
from typing import ClassVar

from jax import Array

from vlm_mu_jax.model.connectors import mlp
from vlm_mu_jax.model.params import Params, Specs
from vlm_mu_jax.model.tensors import SAME, Row

NAMES = (
    Row("{connector}layer_norm.weight", "projector/norm_scale_E", SAME),
    Row("{connector}layer_norm.bias", "projector/norm_bias_E", SAME),
    *(row for row in mlp.NAMES if "projector_layernorm" not in row.key),
)


@dataclasses.dataclass(frozen=True)
class ShuffledMlp:
    """See `connector.Connector`. factor: states along one side of a block. mlp: what reads the blocks."""

    factor: int
    mlp: mlp.Mlp
    writes: ClassVar[tuple[str, ...]] = mlp.Mlp.writes

    def tokens(self, P: int) -> int:
        return P // self.factor**2

    def specs(self, E: int, D: int) -> Specs:
        return self.mlp.specs(E * self.factor**2, D)

    def project(self, params: Params, states_BMPE: Array) -> Array:
        return self.mlp.project(params, pixel_shuffle(states_BMPE, self.factor))

    def extra(self, params: Params) -> Array | None:
        return self.mlp.extra(params)

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        return self.mlp.linear_sizes(E * self.factor**2, D)

    def problems(self) -> list[str]:
        return self.mlp.problems()


def pixel_shuffle(states_BMPE: Array, factor: int) -> Array:
    """[B, M, P, E], a square of states row by row -> [B, M, P / factor^2, E factor^2]: every block of factor x factor
    states, row by row, becomes one.

    Source: transformers@modeling_internvl.py (InternVLModel.pixel_shuffle); Idefics3Connector does the same.
    """
    B, M, P, E = states_BMPE.shape
    side = math.isqrt(P) // factor
    blocks = states_BMPE.reshape(B, M, side, factor, side, factor, E).transpose(0, 1, 2, 4, 3, 5, 6)
    return blocks.reshape(B, M, side * side, factor * factor * E)
