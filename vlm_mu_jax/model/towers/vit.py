"""The pre-norm vision transformer that the towers share: blocks, which states are read, and the patches.

A block does what its parameters call for: norms without a bias are RMS norms, biases, norms of queries and keys and
scales of a branch (InternViT) are there or not.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.attention import Segment, attend
from vlm_mu_jax.model.layers import ACTIVATIONS, activation, layer_norm, linear, rms_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.tensors import CONV, FLAT, LINEAR, MERGE, SAME, Row
from vlm_mu_jax.parallel.activations import spread_rows

NAMES = (
    Row("{vision}embeddings.patch_embedding.weight", "vision/patch_CD", CONV),
    Row("{vision}embeddings.position_embedding.weight", "vision/position_QD", SAME),
    Row("{vision}encoder.layers.{l}.layer_norm1.weight", "vision/layers/norm1_scale_LD", SAME),
    Row("{vision}encoder.layers.{l}.layer_norm1.bias", "vision/layers/norm1_bias_LD", SAME),
    Row("{vision}encoder.layers.{l}.self_attn.q_proj.weight", "vision/layers/wq_LDNH", LINEAR),
    Row("{vision}encoder.layers.{l}.self_attn.q_proj.bias", "vision/layers/bq_LNH", FLAT),
    Row("{vision}encoder.layers.{l}.self_attn.k_proj.weight", "vision/layers/wk_LDNH", LINEAR),
    Row("{vision}encoder.layers.{l}.self_attn.k_proj.bias", "vision/layers/bk_LNH", FLAT),
    Row("{vision}encoder.layers.{l}.self_attn.v_proj.weight", "vision/layers/wv_LDNH", LINEAR),
    Row("{vision}encoder.layers.{l}.self_attn.v_proj.bias", "vision/layers/bv_LNH", FLAT),
    Row("{vision}encoder.layers.{l}.self_attn.out_proj.weight", "vision/layers/wo_LNHD", MERGE),
    Row("{vision}encoder.layers.{l}.self_attn.out_proj.bias", "vision/layers/bo_LD", SAME),
    Row("{vision}encoder.layers.{l}.layer_norm2.weight", "vision/layers/norm2_scale_LD", SAME),
    Row("{vision}encoder.layers.{l}.layer_norm2.bias", "vision/layers/norm2_bias_LD", SAME),
    Row("{vision}encoder.layers.{l}.mlp.fc1.weight", "vision/layers/w1_LDF", LINEAR),
    Row("{vision}encoder.layers.{l}.mlp.fc1.bias", "vision/layers/b1_LF", SAME),
    Row("{vision}encoder.layers.{l}.mlp.fc2.weight", "vision/layers/w2_LFD", LINEAR),
    Row("{vision}encoder.layers.{l}.mlp.fc2.bias", "vision/layers/b2_LD", SAME),
    Row("{vision}post_layernorm.weight", "vision/post_norm_scale_D", SAME),
    Row("{vision}post_layernorm.bias", "vision/post_norm_bias_D", SAME),
)


@dataclasses.dataclass(frozen=True)
class Vit:
    """What such towers have in common. D, L, N, F: width, layers, heads, feed-forward width.

    feature_layers: hidden states that are concatenated, as indices into [embeddings, block 0 output, ...].
    select: "default" drops the first token of an image, "full" keeps all.
    """

    image_size: int
    patch_size: int
    D: int
    L: int
    N: int
    F: int
    norm_eps: float = 1e-5
    activation: str = "quick_gelu"
    feature_layers: tuple[int, ...] = (-2,)
    select: str = "default"

    @property
    def side(self) -> int:
        """Patches along one side of an image (0 for a patch size that cannot be)."""
        return self.image_size // self.patch_size if self.patch_size else 0

    @property
    def tokens(self) -> int:
        """Tokens of an image inside the tower."""
        return self.side**2

    @property
    def P(self) -> int:
        return self.tokens - (self.select != "full")

    @property
    def E(self) -> int:
        return self.D * len(self.feature_layers)

    @property
    def wanted(self) -> list[int]:
        """`feature_layers`, counted from the embeddings."""
        return [i if i >= 0 else self.L + 1 + i for i in self.feature_layers]

    def patches(self, params: Params, pixels_IHWC: Array) -> Array:
        """Projected patches [I, side * side, D], row by row. Pixels beyond the last whole patch are not read."""
        images, p, grid = pixels_IHWC.shape[0], self.patch_size, self.side
        pixels = pixels_IHWC[:, : grid * p, : grid * p].reshape(images, grid, p, grid, p, 3)
        patches = pixels.transpose(0, 1, 3, 5, 2, 4).reshape(images, grid * grid, 3 * p * p)
        return patches.astype(params["patch_CD"].dtype) @ params["patch_CD"]

    def states(self, params: Params, x_IQD: Array) -> Array:
        """Embeddings -> the states that `feature_layers` and `select` name. Blocks above the last are never run."""
        depth = max(self.wanted)
        prefix = jax.tree.map(lambda w: w[:depth], params["layers"])
        if len(self.wanted) == 1:
            states = [jax.lax.scan(lambda x, p: (_block(x, p, self), None), x_IQD, prefix)[0]]
        else:
            _, outputs = jax.lax.scan(lambda x, p: (_block(x, p, self),) * 2, x_IQD, prefix)
            states = [x_IQD if i == 0 else outputs[i - 1] for i in self.wanted]
        features = jnp.concatenate(states, axis=-1)
        return features if self.select == "full" else features[:, 1:]

    def flops(self, images: int = 1) -> float:
        """Through the blocks that the features need."""
        n, D = self.tokens, self.D
        block = 2 * n * (4 * D * D + 2 * D * self.F) + 4 * n * n * D
        return float(images * (max(self.wanted) * block + 2 * self.side**2 * 3 * self.patch_size**2 * D))

    def problems(self) -> list[str]:
        """Values that do not fit each other."""
        found = []
        if self.D % self.N:
            found.append(f"vision width {self.D} is not a multiple of its {self.N} heads")
        if self.patch_size > self.image_size:
            found.append(f"vision patch_size {self.patch_size} is larger than image_size {self.image_size}")
        if any(type(i) is not int or not -self.L - 1 <= i <= self.L for i in self.feature_layers):
            found.append(f"vision_feature_layer {list(self.feature_layers)} is not within {self.L} layers")
        if self.select not in ("default", "full"):
            found.append(f"vision_feature_select_strategy {self.select!r} is neither 'default' nor 'full'")
        if self.activation not in ACTIVATIONS:
            found.append(f"vision hidden_act {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        return found


def layer_specs(cfg: Vit) -> Specs:
    """Parameters of the blocks, stacked on a leading layer axis."""
    D, L, N, F = cfg.D, cfg.L, cfg.N, cfg.F
    H = D // N

    def stack(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str | float = 0.02) -> ParamSpec:
        return ParamSpec((L, *shape), ("layers", *axes), init)

    heads = {f"w{n}_LDNH": stack((D, N, H), ("embed", "heads", "head")) for n in "qkv"}
    heads |= {f"b{n}_LNH": stack((N, H), ("heads", "head"), "zeros") for n in "qkv"}
    norms = {f"norm{i}_scale_LD": stack((D,), ("embed",), "ones") for i in (1, 2)}
    norms |= {f"norm{i}_bias_LD": stack((D,), ("embed",), "zeros") for i in (1, 2)}
    rest = {
        "wo_LNHD": stack((N, H, D), ("heads", "head", "embed")),
        "bo_LD": stack((D,), ("embed",), "zeros"),
        "w1_LDF": stack((D, F), ("embed", "mlp")),
        "b1_LF": stack((F,), ("mlp",), "zeros"),
        "w2_LFD": stack((F, D), ("mlp", "embed")),
        "b2_LD": stack((D,), ("embed",), "zeros"),
    }
    return heads | norms | rest


def _block(x_IQD: Array, p: Params, cfg: Vit) -> Array:
    x_IQD = spread_rows(x_IQD)
    h = _norm(x_IQD, p, "norm1", cfg)
    q, k, v = (linear(h, p[f"w{n}_LDNH"], p.get(f"b{n}_LNH")) for n in "qkv")
    if "q_norm_LD" in p:
        q, k = _norm_heads(q, p["q_norm_LD"]), _norm_heads(k, p["k_norm_LD"])
    everywhere = jnp.ones((1, 1, 1), bool)
    mixed = attend(q, [Segment(k, v, everywhere)])
    x_IQD = x_IQD + _scaled(_merge_heads(mixed, p["wo_LNHD"], p["bo_LD"]), p.get("scale1_LD"))
    h = _norm(x_IQD, p, "norm2", cfg)
    h = activation(cfg.activation)(linear(h, p["w1_LDF"], p["b1_LF"]))
    return x_IQD + _scaled(linear(h, p["w2_LFD"], p["b2_LD"]), p.get("scale2_LD"))


def _norm(x_IQD: Array, p: Params, name: str, cfg: Vit) -> Array:
    scale_D, bias_D = p[f"{name}_scale_LD"], p.get(f"{name}_bias_LD")
    return (
        rms_norm(x_IQD, scale_D, cfg.norm_eps) if bias_D is None else layer_norm(x_IQD, scale_D, bias_D, cfg.norm_eps)
    )


def _norm_heads(x_IQNH: Array, scale_D: Array) -> Array:
    """RMS norm over all heads together."""
    return rms_norm(x_IQNH.reshape(*x_IQNH.shape[:2], -1), scale_D, 1e-6).reshape(x_IQNH.shape)


def _scaled(branch_IQD: Array, scale_D: Array | None) -> Array:
    return branch_IQD if scale_D is None else branch_IQD * scale_D[None, None]


def _merge_heads(mixed_IQNH: Array, wo_NHD: Array, bo_D: Array) -> Array:
    N, H, D = wo_NHD.shape
    return linear(mixed_IQNH.reshape(*mixed_IQNH.shape[:2], N * H), wo_NHD.reshape(N * H, D), bo_D)
