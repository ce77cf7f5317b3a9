"""Average pooling, an RMS norm and one linear map: square blocks of states become one image token (Gemma 3)."""

import dataclasses
import math
from typing import ClassVar

from jax import Array

from vlm_mu_jax.model.layers import linear, rms_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import SAME, Row

NAMES = (
    Row("{connector}mm_soft_emb_norm.weight", "projector/norm_scale_E", SAME),
    Row("{connector}mm_input_projection_weight", "projector/w_ED", SAME),
)


@dataclasses.dataclass(frozen=True)
class PooledLinear:
    """See `connector.Connector`. block: states along one side of a block. The norm scales by 1 + w.

    Source: transformers@modeling_gemma3.py (Gemma3MultiModalProjector).
    """

    block: int
    norm_eps: float = 1e-6
    writes: ClassVar[tuple[str, ...]] = ("w_ED",)

    def tokens(self, P: int) -> int:
        return P // self.block**2

    def specs(self, E: int, D: int) -> Specs:
        return {"norm_scale_E": ParamSpec((E,), (None,), "zeros"), "w_ED": ParamSpec((E, D), (None, "embed"))}

    def project(self, params: Params, states_BMPE: Array) -> Array:
        B, M, P, E = states_BMPE.shape
        side = math.isqrt(P) // self.block
        blocks = states_BMPE.reshape(B, M, side, self.block, side, self.block, E)
        pooled = blocks.mean(axis=(3, 5)).reshape(B, M, side * side, E)
        return linear(rms_norm(pooled, params["norm_scale_E"], self.norm_eps, True), params["w_ED"], None)

    def extra(self, params: Params) -> None:
        return None

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        return {"w_ED": E * D}

    def problems(self) -> list[str]:
        return []
