"""One block of the decoder: its parameters and its arithmetic, for one layer.

What surrounds a block (the scan over layers, key/value segments, steering, taps) stands in `decoder.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from vlm_mu_jax.model.cache import Reader
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.layers import linear, rms_norm, rope
from vlm_mu_jax.model.params import Params, ParamSpec, Specs


class Layer(NamedTuple):
    """What is one layer's own. p: its parameters. lora: its adapters by parameter name. earlier: see `Reader`."""

    p: Params
    lora: dict[str, Any]
    earlier: Any

    def linear(self, x: Array, weight: str, bias: str) -> Array:
        """`x @ p[weight]`, with the bias and the adapter where the layer has them."""
        return linear(x, self.p[weight], self.p.get(bias), self.lora.get(weight))


def attention_half(x_BTD: Array, layer: Layer, cfg: TextConfig, reader: Reader) -> tuple[Array, Array, Array]:
    """x + attention(norm(x)) of the asking tokens, and the keys (rotated) and values of all tokens."""
    h = rms_norm(x_BTD, layer.p["attn_norm_LD"], cfg.norm_eps)
    k = rope(layer.linear(h, "wk_LDKH", "bk_LKH"), reader.angles)
    v = layer.linear(h, "wv_LDKH", "bv_LKH")
    x, h, angles = jax.tree.map(reader.asking, (x_BTD, h, reader.angles))
    q = rope(layer.linear(h, "wq_LDNH", "bq_LNH"), angles)
    mixed = reader.attend(q, k, v, layer.earlier)
    return x + _merge_heads(mixed, layer), k, v


def mlp_half(x_BTD: Array, layer: Layer, cfg: TextConfig) -> Array:
    """x + mlp(norm(x))."""
    h = rms_norm(x_BTD, layer.p["mlp_norm_LD"], cfg.norm_eps)
    gate, up = layer.linear(h, "wgate_LDF", "bgate_LF"), layer.linear(h, "wup_LDF", "bup_LF")
    return x_BTD + layer.linear(jax.nn.silu(gate) * up, "wdown_LFD", "bdown_LD")


def _merge_heads(mixed_BTNH: Array, layer: Layer) -> Array:
    B, T, N, H = mixed_BTNH.shape
    weight = layer.p["wo_LNHD"].reshape(N * H, -1)
    return linear(mixed_BTNH.reshape(B, T, N * H), weight, layer.p.get("bo_LD"), layer.lora.get("wo_LNHD"))


def block_specs(cfg: TextConfig) -> Specs:
    """Declaration of the parameters of all blocks, stacked on a leading layer axis."""
    D, N, K, H, F = cfg.D, cfg.N, cfg.K, cfg.H, cfg.F
    stack = _stacked(cfg.L)
    specs: Specs = {
        "attn_norm_LD": stack((D,), ("embed",), "ones"),
        "wq_LDNH": stack((D, N, H), ("embed", "heads", "head")),
        "wk_LDKH": stack((D, K, H), ("embed", "kv_heads", "head")),
        "wv_LDKH": stack((D, K, H), ("embed", "kv_heads", "head")),
        "wo_LNHD": stack((N, H, D), ("heads", "head", "embed")),
        "mlp_norm_LD": stack((D,), ("embed",), "ones"),
        "wgate_LDF": stack((D, F), ("embed", "mlp")),
        "wup_LDF": stack((D, F), ("embed", "mlp")),
        "wdown_LFD": stack((F, D), ("mlp", "embed")),
    }
    if cfg.attention_bias:
        specs |= {
            "bq_LNH": stack((N, H), ("heads", "head"), "zeros"),
            "bk_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
            "bv_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
            "bo_LD": stack((D,), ("embed",), "zeros"),
        }
    if cfg.mlp_bias:
        specs |= {
            "bgate_LF": stack((F,), ("mlp",), "zeros"),
            "bup_LF": stack((F,), ("mlp",), "zeros"),
            "bdown_LD": stack((D,), ("embed",), "zeros"),
        }
    return specs


def _stacked(L: int) -> Callable[..., ParamSpec]:
    def stack(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str | float = 0.02) -> ParamSpec:
        return ParamSpec((L, *shape), ("layers", *axes), init)

    return stack
