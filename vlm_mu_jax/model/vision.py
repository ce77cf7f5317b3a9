"""CLIP vision transformer up to the hidden states a LLaVA projector reads."""

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.attention import Segment, attend
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.layers import activation, layer_norm, linear
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.parallel.activations import spread_rows


def vision_specs(cfg: VisionConfig) -> Specs:
    """Every parameter of the tower, including `post_norm`, which LLaVA never reads but a checkpoint holds."""
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
    return {
        "class_D": ParamSpec((D,), ("embed",)),
        "patch_CD": ParamSpec((3 * cfg.patch_size**2, D), (None, "embed")),
        "position_QD": ParamSpec((cfg.patches + 1, D), (None, "embed")),
        "pre_norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
        "pre_norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
        "post_norm_scale_D": ParamSpec((D,), ("embed",), "ones"),
        "post_norm_bias_D": ParamSpec((D,), ("embed",), "zeros"),
        "layers": heads | norms | rest,
    }


def encode(params: Params, pixels_IHWC: Array, cfg: VisionConfig) -> Array:
    """Images -> selected hidden states, concatenated over `feature_layers`.

    Args:
      params: tree of `vision_specs`.
      pixels_IHWC: normalised float pixels [I, size, size, 3].

    Returns:
      [I, P, D * len(feature_layers)]; the class token is dropped unless `select` is "full".
    """
    wanted = [i if i >= 0 else cfg.L + 1 + i for i in cfg.feature_layers]
    x_IQD = _embed(params, pixels_IHWC, cfg)
    depth = max(wanted)  # later blocks are never read
    prefix = jax.tree.map(lambda w: w[:depth], params["layers"])
    if len(wanted) == 1:
        states = [jax.lax.scan(lambda x, p: (_block(x, p, cfg), None), x_IQD, prefix)[0]]
    else:
        _, outputs = jax.lax.scan(lambda x, p: (_block(x, p, cfg),) * 2, x_IQD, prefix)
        states = [x_IQD if i == 0 else outputs[i - 1] for i in wanted]
    features = jnp.concatenate(states, axis=-1)
    return features if cfg.select == "full" else features[:, 1:]


def _embed(params: Params, pixels_IHWC: Array, cfg: VisionConfig) -> Array:
    images, size, p = pixels_IHWC.shape[0], cfg.image_size, cfg.patch_size
    grid = size // p
    pixels = pixels_IHWC[:, : grid * p, : grid * p].reshape(images, grid, p, grid, p, 3)
    patches = pixels.transpose(0, 1, 3, 5, 2, 4).reshape(images, grid * grid, 3 * p * p)
    patches = patches.astype(params["patch_CD"].dtype) @ params["patch_CD"]
    first = jnp.broadcast_to(params["class_D"][None, None], (images, 1, cfg.D))
    x_IQD = jnp.concatenate([first, patches], axis=1) + params["position_QD"][None]
    return layer_norm(x_IQD, params["pre_norm_scale_D"], params["pre_norm_bias_D"], cfg.norm_eps)


def _block(x_IQD: Array, p: Params, cfg: VisionConfig) -> Array:
    x_IQD = spread_rows(x_IQD)
    h = layer_norm(x_IQD, p["norm1_scale_LD"], p["norm1_bias_LD"], cfg.norm_eps)
    q, k, v = (linear(h, p[f"w{n}_LDNH"], p[f"b{n}_LNH"]) for n in "qkv")
    everywhere = jnp.ones((1, 1, 1), bool)
    mixed = attend(q, [Segment(k, v, everywhere)])
    x_IQD = x_IQD + _merge_heads(mixed, p["wo_LNHD"], p["bo_LD"])
    h = layer_norm(x_IQD, p["norm2_scale_LD"], p["norm2_bias_LD"], cfg.norm_eps)
    h = activation(cfg.activation)(linear(h, p["w1_LDF"], p["b1_LF"]))
    return x_IQD + linear(h, p["w2_LFD"], p["b2_LD"])


def _merge_heads(mixed_IQNH: Array, wo_NHD: Array, bo_D: Array) -> Array:
    N, H, D = wo_NHD.shape
    return linear(mixed_IQNH.reshape(*mixed_IQNH.shape[:2], N * H), wo_NHD.reshape(N * H, D), bo_D)
