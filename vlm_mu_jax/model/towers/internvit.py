"""InternViT: a class token, layer scale, and in its large size RMS norms, also of queries and keys.

Source: transformers@modeling_internvl.py.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.layers import layer_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import CONV, FLAT, LINEAR, MERGE, SAME, Row
from vlm_mu_jax.model.towers import vit

_LAYERS = {
    "layernorm_before.weight": ("norm1_scale_LD", SAME),
    "layernorm_before.bias": ("norm1_bias_LD", SAME),
    "attention.q_proj.weight": ("wq_LDNH", LINEAR),
    "attention.q_proj.bias": ("bq_LNH", FLAT),
    "attention.k_proj.weight": ("wk_LDNH", LINEAR),
    "attention.k_proj.bias": ("bk_LNH", FLAT),
    "attention.v_proj.weight": ("wv_LDNH", LINEAR),
    "attention.v_proj.bias": ("bv_LNH", FLAT),
    "attention.q_norm.weight": ("q_norm_LD", SAME),
    "attention.k_norm.weight": ("k_norm_LD", SAME),
    "attention.projection_layer.weight": ("wo_LNHD", MERGE),
    "attention.projection_layer.bias": ("bo_LD", SAME),
    "lambda_1": ("scale1_LD", SAME),
    "layernorm_after.weight": ("norm2_scale_LD", SAME),
    "layernorm_after.bias": ("norm2_bias_LD", SAME),
    "mlp.fc1.weight": ("w1_LDF", LINEAR),
    "mlp.fc1.bias": ("b1_LF", SAME),
    "mlp.fc2.weight": ("w2_LFD", LINEAR),
    "mlp.fc2.bias": ("b2_LD", SAME),
    "lambda_2": ("scale2_LD", SAME),
}
NAMES = (
    Row("{vision}embeddings.cls_token", "vision/class_11D", SAME),
    Row("{vision}embeddings.mask_token", "vision/mask_11D", SAME),
    Row("{vision}embeddings.patch_embeddings.projection.weight", "vision/patch_CD", CONV),
    Row("{vision}embeddings.patch_embeddings.projection.bias", "vision/patch_bias_D", SAME),
    Row("{vision}embeddings.position_embeddings", "vision/position_1QD", SAME),
    *(
        Row(f"{{vision}}encoder.layer.{{l}}.{key}", f"vision/layers/{path}", layout)
        for key, (path, layout) in _LAYERS.items()
    ),
    Row("{vision}layernorm.weight", "vision/post_norm_scale_D", SAME),
    Row("{vision}layernorm.bias", "vision/post_norm_bias_D", SAME),
)


@dataclasses.dataclass(frozen=True)
class InternVit(vit.Vit):
    """See `tower.Tower` and `vit.Vit`. A class token stands before the patches.

    qkv_bias: biases of queries, keys and values. qk_norm: RMS norms of queries and keys, over all heads together.
    rms: RMS norms before attention and MLP. positions: learned ones are added to the patches.
    post_norm: a layer norm behind the last block, which the last block's states are read through.
    mask_token: the checkpoint holds one, which nobody reads and which is kept as it is.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    rms: bool = False
    positions: bool = True
    post_norm: bool = False
    mask_token: bool = False

    @property
    def tokens(self) -> int:
        return self.side**2 + 1

    def specs(self) -> Specs:
        """Every parameter of the tower."""
        D = self.D
        found: Specs = {
            "class_11D": ParamSpec((1, 1, D), (None, None, "embed")),
            "patch_CD": ParamSpec((3 * self.patch_size**2, D), (None, "embed")),
            "patch_bias_D": ParamSpec((D,), ("embed",), "zeros"),
            "layers": self._layer_specs(),
        }
        if self.mask_token:
            found["mask_11D"] = ParamSpec((1, 1, D), (None, None, "embed"))
        if self.positions:
            found["position_1QD"] = ParamSpec((1, self.tokens, D), (None, None, "embed"))
        if self.post_norm:
            found["post_norm_scale_D"] = ParamSpec((D,), ("embed",), "ones")
            found["post_norm_bias_D"] = ParamSpec((D,), ("embed",), "zeros")
        return found

    def _layer_specs(self) -> Specs:
        absent = set() if self.qkv_bias else {"bq_LNH", "bk_LNH", "bv_LNH"}
        absent |= {"norm1_bias_LD", "norm2_bias_LD"} if self.rms else set()
        found = {name: spec for name, spec in vit.layer_specs(self).items() if name not in absent}
        vectors = ("scale1_LD", "scale2_LD", *(("q_norm_LD", "k_norm_LD") if self.qk_norm else ()))
        return found | {name: ParamSpec((self.L, self.D), ("layers", "embed"), "ones") for name in vectors}

    def encode(self, params: Params, pixels_IHWC: Array) -> Array:
        """See `tower.Tower`."""
        patches_IPD = self.patches(params, pixels_IHWC) + params["patch_bias_D"][None, None]
        first = jnp.broadcast_to(params["class_11D"], (len(patches_IPD), 1, self.D))
        x_IQD = jnp.concatenate([first, patches_IPD], axis=1)
        states = self.states(params, x_IQD + params["position_1QD"] if self.positions else x_IQD)
        if self.post_norm and self.feature_layers == (-1,):  # transformers reads `last_hidden_state` then
            states = layer_norm(states, params["post_norm_scale_D"], params["post_norm_bias_D"], self.norm_eps)
        return states
