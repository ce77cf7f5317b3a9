"""SigLIP vision transformer: no class token, no norm before the blocks, a bias at the patches."""

import dataclasses

from jax import Array

from vlm_mu_jax.model.layers import layer_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import LINEAR, SAME, Row
from vlm_mu_jax.model.towers import vit

NAMES = (
    Row("{vision}embeddings.patch_embedding.bias", "vision/patch_bias_D", SAME),
    Row("{vision}head.probe", "vision/head/probe_11D", SAME),
    Row("{vision}head.attention.in_proj_weight", "vision/head/qkv_DE", LINEAR),
    Row("{vision}head.attention.in_proj_bias", "vision/head/qkv_bias_E", SAME),
    Row("{vision}head.attention.out_proj.weight", "vision/head/out_DD", LINEAR),
    Row("{vision}head.attention.out_proj.bias", "vision/head/out_bias_D", SAME),
    Row("{vision}head.layernorm.weight", "vision/head/norm_scale_D", SAME),
    Row("{vision}head.layernorm.bias", "vision/head/norm_bias_D", SAME),
    Row("{vision}head.mlp.fc1.weight", "vision/head/w1_DF", LINEAR),
    Row("{vision}head.mlp.fc1.bias", "vision/head/b1_F", SAME),
    Row("{vision}head.mlp.fc2.weight", "vision/head/w2_FD", LINEAR),
    Row("{vision}head.mlp.fc2.bias", "vision/head/b2_D", SAME),
)


@dataclasses.dataclass(frozen=True)
class Siglip(vit.Vit):
    """See `tower.Tower`.

    head: the checkpoint holds a pooling head, which nobody reads and which is kept as it is.
    post_norm: the states pass the norm behind the last block; the checkpoint holds it in any case.
    """

    head: bool = True
    post_norm: bool = False

    def specs(self) -> Specs:
        """Every parameter that a checkpoint holds, those that nobody reads too."""
        D, F = self.D, self.F
        found: Specs = {
            "patch_CD": ParamSpec((3 * self.patch_size**2, D), (None, "embed")),
            "patch_bias_D": ParamSpec((D,), ("embed",), "zeros"),
            "position_QD": ParamSpec((self.tokens, D), (None, "embed")),
            "post_norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
            "post_norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
            "layers": vit.layer_specs(self),
        }
        if self.head:
            found["head"] = {
                "probe_11D": ParamSpec((1, 1, D), (None, None, "embed")),
                "qkv_DE": ParamSpec((D, 3 * D), ("embed", None)),
                "qkv_bias_E": ParamSpec((3 * D,), (None,), "zeros"),
                "out_DD": ParamSpec((D, D), (None, "embed")),
                "out_bias_D": ParamSpec((D,), ("embed",), "zeros"),
                "norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
                "norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
                "w1_DF": ParamSpec((D, F), ("embed", "mlp")),
                "b1_F": ParamSpec((F,), ("mlp",), "zeros"),
                "w2_FD": ParamSpec((F, D), ("mlp", "embed")),
                "b2_D": ParamSpec((D,), ("embed",), "zeros"),
            }
        return found

    def encode(self, params: Params, pixels_IHWC: Array) -> Array:
        """See `tower.Tower`."""
        x_IQD = self.patches(params, pixels_IHWC) + params["patch_bias_D"][None, None]
        states_IQD = self.states(params, x_IQD + params["position_QD"][None])
        if not self.post_norm:
            return states_IQD
        return layer_norm(states_IQD, params["post_norm_scale_D"], params["post_norm_bias_D"], self.norm_eps)
