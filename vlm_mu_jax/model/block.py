"""One block of the decoder: its parameters and its arithmetic, for one layer.

What surrounds a block (the scan over layers, key/value segments, steering, taps) stands in `decoder.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from vlm_mu_jax.model.cache import CacheReader
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.layers import Held, activation, linear, rms_norm, rope
from vlm_mu_jax.model.params import Params, ParamSpec, Specs


class Layer(NamedTuple):
    """One layer's parameters, and its adapters by parameter name ({} for none)."""

    p: Params
    lora: dict[str, Any]
    cfg: TextConfig

    def linear(self, x: Array, weight: str, bias: str) -> Array:
        """`x @ p[weight]`, with the bias and the adapter where the layer has them."""
        return linear(x, self.p[weight], self.p.get(bias), self.lora.get(weight))

    def norm(self, x: Array, scale: str) -> Array:
        """x after the named norm, or x itself where the layer has no such norm."""
        return rms_norm(x, self.p[scale], self.cfg.norm_eps, self.cfg.norm_offset) if scale in self.p else x


def attention_half(x_BTD: Array, layer: Layer, reader: CacheReader) -> tuple[Array, Array, Array]:
    """x + attention(norm(x)) of the asking tokens, and the keys (rotated) and values of all tokens."""
    h = layer.norm(x_BTD, "attn_norm_LD")
    k = rope(layer.norm(layer.linear(h, "wk_LDKH", "bk_LKH"), "k_norm_LH"), reader.angles)
    v = layer.linear(h, "wv_LDKH", "bv_LKH")
    x, h, angles = jax.tree.map(reader.asking, (x_BTD, h, reader.angles))
    q = rope(layer.norm(layer.linear(h, "wq_LDNH", "bq_LNH"), "q_norm_LH"), angles)
    mixed = reader.attend(_scaled(q, layer.cfg), k, v)
    return x + layer.norm(_merge_heads(mixed, layer), "attn_post_norm_LD"), k, v


def mlp_half(x_BTD: Array, layer: Layer) -> Array:
    """x + mlp(norm(x))."""
    h = layer.norm(x_BTD, "mlp_norm_LD")
    gate, up = layer.linear(h, "wgate_LDF", "bgate_LF"), layer.linear(h, "wup_LDF", "bup_LF")
    down = layer.linear(activation(layer.cfg.activation)(gate) * up, "wdown_LFD", "bdown_LD")
    return x_BTD + layer.norm(down, "mlp_post_norm_LD")


def _scaled(q_BTNH: Array, cfg: TextConfig) -> Array:
    """Queries whose scores, scaled by the usual H**-0.5, come out as the config wants them."""
    return q_BTNH if cfg.query_scalar is None else q_BTNH * (cfg.H / cfg.query_scalar) ** 0.5


def _merge_heads(mixed_BTNH: Array, layer: Layer) -> Array:
    B, T, N, H = mixed_BTNH.shape
    weight = layer.p["wo_LNHD"]
    weight = weight if isinstance(weight, Held) else weight.reshape(N * H, -1)
    return linear(mixed_BTNH.reshape(B, T, N * H), weight, layer.p.get("bo_LD"), layer.lora.get("wo_LNHD"))


def block_specs(cfg: TextConfig) -> Specs:
    """Declaration of the parameters of all blocks, stacked on a leading layer axis."""
    D, N, K, H, F = cfg.D, cfg.N, cfg.K, cfg.H, cfg.F
    stack, unit = _stacked(cfg.L), norm_init(cfg)
    specs: Specs = {
        "attn_norm_LD": stack((D,), ("embed",), unit),
        "wq_LDNH": stack((D, N, H), ("embed", "heads", "head")),
        "wk_LDKH": stack((D, K, H), ("embed", "kv_heads", "head")),
        "wv_LDKH": stack((D, K, H), ("embed", "kv_heads", "head")),
        "wo_LNHD": stack((N, H, D), ("heads", "head", "embed")),
        "mlp_norm_LD": stack((D,), ("embed",), unit),
        "wgate_LDF": stack((D, F), ("embed", "mlp")),
        "wup_LDF": stack((D, F), ("embed", "mlp")),
        "wdown_LFD": stack((F, D), ("mlp", "embed")),
    }
    if cfg.qk_norm:
        specs |= {name: stack((H,), ("head",), unit) for name in ("q_norm_LH", "k_norm_LH")}
    if cfg.post_norms:
        specs |= {name: stack((D,), ("embed",), unit) for name in ("attn_post_norm_LD", "mlp_post_norm_LD")}
    if cfg.attention_bias or cfg.qkv_bias:
        specs |= {
            "bq_LNH": stack((N, H), ("heads", "head"), "zeros"),
            "bk_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
            "bv_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
        }
    if cfg.attention_bias:
        specs["bo_LD"] = stack((D,), ("embed",), "zeros")
    if cfg.mlp_bias:
        specs |= {
            "bgate_LF": stack((F,), ("mlp",), "zeros"),
            "bup_LF": stack((F,), ("mlp",), "zeros"),
            "bdown_LD": stack((D,), ("embed",), "zeros"),
        }
    return specs


def norm_init(cfg: TextConfig) -> str:
    """Initialiser of norm scales: those that scale by 1 + w start at zero."""
    return "zeros" if cfg.norm_offset else "ones"


def _stacked(L: int) -> Callable[..., ParamSpec]:
    def stack(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str | float = 0.02) -> ParamSpec:
        return ParamSpec((L, *shape), ("layers", *axes), init)

    return stack
