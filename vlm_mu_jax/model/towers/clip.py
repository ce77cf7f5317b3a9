"""CLIP vision transformer, up to the hidden states a connector reads."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.layers import layer_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import SAME, Row
from vlm_mu_jax.model.towers import vit

NAMES = (
    Row("{vision}embeddings.class_embedding", "vision/class_D", SAME),
    Row("{vision}pre_layrnorm.weight", "vision/pre_norm_scale_D", SAME),  # the missing "e" is in every checkpoint
    Row("{vision}pre_layrnorm.bias", "vision/pre_norm_bias_D", SAME),
    *vit.NAMES,
)


@dataclasses.dataclass(frozen=True)
class Clip(vit.Vit):
    """The tower of LLaVA-1.5 and LLaVA-NeXT; see `tower.Tower`. A class token stands before the patches."""

    @property
    def tokens(self) -> int:
        return self.side**2 + 1

    def specs(self) -> Specs:
        """Every parameter of the tower, including `post_norm`, which nobody reads but a checkpoint holds."""
        D = self.D
        return {
            "class_D": ParamSpec((D,), ("embed",)),
            "patch_CD": ParamSpec((3 * self.patch_size**2, D), (None, "embed")),
            "position_QD": ParamSpec((self.tokens, D), (None, "embed")),
            "pre_norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
            "pre_norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
            "post_norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
            "post_norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
            "layers": vit.layer_specs(self),
        }

    def encode(self, params: Params, pixels_IHWC: Array) -> Array:
        """See `tower.Tower`."""
        patches_IPD = self.patches(params, pixels_IHWC)
        first = jnp.broadcast_to(params["class_D"][None, None], (len(patches_IPD), 1, self.D))
        x_IQD = jnp.concatenate([first, patches_IPD], axis=1) + params["position_QD"][None]
        x_IQD = layer_norm(x_IQD, params["pre_norm_scale_D"], params["pre_norm_bias_D"], self.norm_eps)
        return self.states(params, x_IQD)
