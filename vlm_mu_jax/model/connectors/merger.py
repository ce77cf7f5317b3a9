"""Blocks of patches merged to image tokens by two linear maps: the connector of towers that read any size."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.layers import ACTIVATIONS, layer_norm, linear, rms_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs

_EPS = 1e-6  # of the norms; no config has it


@dataclasses.dataclass(frozen=True)
class Merger:
    """See `connector.Connector`. A token is as wide as the decoder, and once more for each of `deep` states.

    merge: patches along a side of a block. rms: a norm without mean and bias.
    deep: further states of a patch, which the decoder adds behind its first blocks. Each has maps of its own, and a
      norm over the whole block.
    """

    merge: int = 2
    rms: bool = False
    deep: int = 0
    writes: ClassVar[tuple[str, ...]] = ("w2_UD", "b2_D", "deep/w2_LUD", "deep/b2_LD")

    def tokens(self, P: int) -> int:
        return P // self.merge**2

    def specs(self, E: int, D: int) -> Specs:
        E //= 1 + self.deep
        U = self.merge**2 * E
        found: Specs = {
            "norm_scale_E": ParamSpec((E,), (None,), "ones"),
            "w1_UU": ParamSpec((U, U), (None, None)),
            "b1_U": ParamSpec((U,), (None,), "zeros"),
            "w2_UD": ParamSpec((U, D), (None, "embed")),
            "b2_D": ParamSpec((D,), ("embed",), "zeros"),
        }
        if not self.rms:
            found["norm_bias_E"] = ParamSpec((E,), (None,), "zeros")
        if self.deep:
            n = self.deep
            found["deep"] = {
                "norm_scale_LU": ParamSpec((n, U), ("layers", None), "ones"),
                "norm_bias_LU": ParamSpec((n, U), ("layers", None), "zeros"),
                "w1_LUU": ParamSpec((n, U, U), ("layers", None, None)),
                "b1_LU": ParamSpec((n, U), ("layers", None), "zeros"),
                "w2_LUD": ParamSpec((n, U, D), ("layers", None, "embed")),
                "b2_LD": ParamSpec((n, D), ("layers", "embed"), "zeros"),
            }
        return found

    def project(self, params: Params, states_BMPE: Array) -> Array:
        """[B, M, 1, E] of patches -> [B, M / merge^2, (1 + deep) * D]."""
        last, *deep = jnp.split(states_BMPE[:, :, 0], 1 + self.deep, axis=-1)
        scale = params["norm_scale_E"]
        h = rms_norm(last, scale, _EPS) if self.rms else layer_norm(last, scale, params["norm_bias_E"], _EPS)
        tokens = [_mapped(self._blocks(h), params["w1_UU"], params["b1_U"], params["w2_UD"], params["b2_D"])]
        for i, state in enumerate(deep):
            p = {name: leaf[i] for name, leaf in params["deep"].items()}
            h = layer_norm(self._blocks(state), p["norm_scale_LU"], p["norm_bias_LU"], _EPS)
            tokens.append(_mapped(h, p["w1_LUU"], p["b1_LU"], p["w2_LUD"], p["b2_LD"]))
        return jnp.concatenate(tokens, axis=-1)

    def _blocks(self, x_BME: Array) -> Array:
        """[B, M / merge^2, merge^2 * E]"""
        return x_BME.reshape(x_BME.shape[0], -1, self.merge**2 * x_BME.shape[-1])

    def extra(self, params: Params) -> None:
        return None

    def linear_sizes(self, E: int, D: int) -> dict[str, int]:
        E //= 1 + self.deep
        U = self.merge**2 * E
        sizes = {"w1_UU": U * U, "w2_UD": U * D}
        return sizes | ({"deep/w1_LUU": self.deep * U * U, "deep/w2_LUD": self.deep * U * D} if self.deep else {})

    def problems(self) -> list[str]:
        return []


def _mapped(x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    return linear(ACTIVATIONS["gelu"](linear(x, w1, b1)), w2, b2)
