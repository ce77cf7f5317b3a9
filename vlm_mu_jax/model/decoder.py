"""Llama-family decoder: one block, scanned over stacked layers, with steering and taps as data.

Steering vectors enter the scan as inputs and captured states leave it as outputs. With both off the traced program
holds no trace of them.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from vlm_mu_jax.model.attention import Segment, attend, causal_mask
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.layers import linear, remat, rms_norm, rope, rope_frequencies
from vlm_mu_jax.model.params import Params, ParamSpec, Specs


@flax.struct.dataclass
class KV:
    """Keys (after rotation) and values of all layers: k_LBSKH, v_LBSKH, or [L, S, K, H] when shared by all rows.

    positions_BS: position of each key in its row. valid_BS: False for padding.
    """

    k: Array
    v: Array
    positions_BS: Array
    valid_BS: Array


@flax.struct.dataclass
class Steer:
    """h' = h + g * (strength_l * (h V_l^T) V_l + shift_l) at block output l and every position of the forward.

    basis_LMD: rows of V_l, orthonormal (zero rows leave a layer alone). strength_L: alpha per layer; -1 projects the
    subspace out, -2 reflects it, > 0 amplifies it. shift_LD: constant to add. threshold_L: gate threshold.
    gate_LB: per-layer, per-row gate in {0, 1} from an earlier forward; None = decide in this one.
    gated: False means g = 1. Gates decided here read the row's last token before steering: g = [h V_1 > threshold].
    norm_preserving: rescale h' to the norm of h.
    scope: positions written: "all" (prompt and every generated token), "prompt", or "last" (last prompt token only).
    """

    basis_LMD: Array
    strength_L: Array
    shift_LD: Array
    threshold_L: Array
    gate_LB: Array | None = None
    gated: bool = flax.struct.field(pytree_node=False, default=False)
    norm_preserving: bool = flax.struct.field(pytree_node=False, default=False)
    scope: str = flax.struct.field(pytree_node=False, default="all")


@flax.struct.dataclass
class Decoded:
    """x_BTD: residual stream after the last block run. kv: of these tokens. taps, gate_LB: see `decode`."""

    x_BTD: Array
    kv: KV | None = None
    taps: Array | None = None
    gate_LB: Array | None = None


def decoder_specs(cfg: TextConfig) -> Specs:
    D, L, N, K, H, F = cfg.D, cfg.L, cfg.N, cfg.K, cfg.H, cfg.F

    def stack(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str | float = 0.02) -> ParamSpec:
        return ParamSpec((L, *shape), ("layers", *axes), init)

    layers = {
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
        layers |= {
            "bq_LNH": stack((N, H), ("heads", "head"), "zeros"),
            "bk_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
            "bv_LKH": stack((K, H), ("kv_heads", "head"), "zeros"),
            "bo_LD": stack((D,), ("embed",), "zeros"),
        }
    if cfg.mlp_bias:
        layers |= {
            "bgate_LF": stack((F,), ("mlp",), "zeros"),
            "bup_LF": stack((F,), ("mlp",), "zeros"),
            "bdown_LD": stack((D,), ("embed",), "zeros"),
        }
    specs: Specs = {
        "embed_VD": ParamSpec((cfg.V, D), ("vocab", "embed")),
        "layers": layers,
        "norm_D": ParamSpec((D,), ("embed",), "ones"),
    }
    if not cfg.tie_embeddings:
        specs["head_DV"] = ParamSpec((D, cfg.V), ("embed", "vocab"))
    return specs


def decode(
    layers: Params,
    x_BTD: Array,
    lengths_B: Array,
    cfg: TextConfig,
    *,
    offset_B: Array | None = None,
    past: tuple[KV, ...] = (),
    lora: dict[str, Any] | None = None,
    steer: Steer | None = None,
    tap: str | None = None,
    upto: int | None = None,
    keep_kv: bool = False,
) -> Decoded:
    """Runs decoder blocks 0..upto (all by default) on embedded tokens.

    Args:
      layers: stacked block parameters.
      x_BTD: embedded tokens, right-padded.
      lengths_B: real tokens of each row among these T.
      offset_B: position of the first of these tokens in its row (0 by default).
      past: key/value segments of earlier tokens that these may read.
      lora: {parameter name: {"a": [L, I, R], "b": [L, R, O...], "scale": [L]}}.
      steer: see `Steer`.
      tap: "last" returns float32 [L, B, D] block outputs at each row's last token, "all" [L, B, T, D].
      upto: last block to run, 0-based.
      keep_kv: return keys and values of these tokens.
    """
    B, T, _ = x_BTD.shape
    offset_B = jnp.zeros((B,), jnp.int32) if offset_B is None else offset_B
    positions_BT = offset_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    frequencies = rope_frequencies(cfg, offset_B + lengths_B)
    masks = [_past_mask(kv, positions_BT, cfg) for kv in past]
    own_mask = causal_mask(positions_BT, positions_BT, offset_B + lengths_B, cfg.sliding_window)
    last_B = lengths_B - 1

    def block(x, xs):
        h = rms_norm(x, xs["p"]["attn_norm_LD"], cfg.norm_eps)
        q, k, v = _qkv(h, xs["p"], xs.get("lora") or {}, positions_BT, frequencies)
        segments = [Segment(k_, v_, m) for (k_, v_), m in zip(xs["past"], masks, strict=True)]
        mixed = checkpoint_name(attend(q, [*segments, Segment(k, v, own_mask)]), "attn_out")
        x = x + _out(mixed, xs["p"], xs.get("lora") or {})
        x = x + _mlp(rms_norm(x, xs["p"]["mlp_norm_LD"], cfg.norm_eps), xs["p"], xs.get("lora") or {})
        ys = {"k": k, "v": v} if keep_kv else {}
        if steer is not None:
            x, ys["gate"] = _steer(x, xs["steer"], last_B, steer)
        if tap is not None:
            ys["tap"] = (x if tap == "all" else x[jnp.arange(B), last_B]).astype(jnp.float32)
        return x, ys

    xs = {"p": layers, "past": [(kv.k, kv.v) for kv in past]}
    if lora:
        xs["lora"] = lora
    if steer is not None:
        xs["steer"] = {
            "basis": steer.basis_LMD, "strength": steer.strength_L, "shift": steer.shift_LD,
            "threshold": steer.threshold_L, **({} if steer.gate_LB is None else {"gate": steer.gate_LB}),
        }  # fmt: skip
    if upto is not None:
        xs = jax.tree.map(lambda leaf: leaf[: upto + 1], xs)
    x_BTD, ys = jax.lax.scan(remat(block, cfg.remat), x_BTD, xs, unroll=cfg.unroll)
    kv = None
    if keep_kv:
        kv = KV(ys["k"], ys["v"], positions_BT, jnp.arange(T)[None] < lengths_B[:, None])
    return Decoded(x_BTD, kv, ys.get("tap"), ys.get("gate"))


def _past_mask(kv: KV, positions_BT: Array, cfg: TextConfig) -> Array:
    query, key = positions_BT[:, :, None], kv.positions_BS[:, None, :]
    mask = kv.valid_BS[:, None, :] & (key <= query)
    return mask if cfg.sliding_window is None else mask & (query - key < cfg.sliding_window)


def _qkv(h: Array, p: Params, lora: dict, positions_BT: Array, frequencies: Array) -> tuple[Array, Array, Array]:
    q = linear(h, p["wq_LDNH"], p.get("bq_LNH"), lora.get("wq_LDNH"))
    k = linear(h, p["wk_LDKH"], p.get("bk_LKH"), lora.get("wk_LDKH"))
    v = linear(h, p["wv_LDKH"], p.get("bv_LKH"), lora.get("wv_LDKH"))
    return rope(q, positions_BT, frequencies), rope(k, positions_BT, frequencies), v


def _out(mixed_BTNH: Array, p: Params, lora: dict) -> Array:
    B, T, N, H = mixed_BTNH.shape
    return linear(mixed_BTNH.reshape(B, T, N * H), p["wo_LNHD"].reshape(N * H, -1), p.get("bo_LD"), lora.get("wo_LNHD"))


def _mlp(h: Array, p: Params, lora: dict) -> Array:
    gate = linear(h, p["wgate_LDF"], p.get("bgate_LF"), lora.get("wgate_LDF"))
    up = linear(h, p["wup_LDF"], p.get("bup_LF"), lora.get("wup_LDF"))
    return linear(jax.nn.silu(gate) * up, p["wdown_LFD"], p.get("bdown_LD"), lora.get("wdown_LFD"))


def _steer(x_BTD: Array, s: dict[str, Array], last_B: Array, steer: Steer) -> tuple[Array, Array]:
    """One layer of `Steer`, in float32; rows whose gate is 0 keep their exact bits."""
    B = x_BTD.shape[0]
    x32, basis_MD = x_BTD.astype(jnp.float32), s["basis"].astype(jnp.float32)
    if not steer.gated:
        gate_B = jnp.ones((B,), jnp.float32)
    elif "gate" in s:
        gate_B = s["gate"].astype(jnp.float32)
    else:
        gate_B = (x32[jnp.arange(B), last_B] @ basis_MD[0] > s["threshold"]).astype(jnp.float32)
    moved = x32 + s["strength"] * (x32 @ basis_MD.T) @ basis_MD + s["shift"].astype(jnp.float32)[None, None]
    if steer.norm_preserving:
        norms = [jnp.linalg.norm(h, axis=-1, keepdims=True) for h in (x32, moved)]
        moved = moved * norms[0] / jnp.maximum(norms[1], 1e-12)
    write_BT1 = gate_B[:, None, None] > 0
    if steer.scope == "last":
        write_BT1 = write_BT1 & (jnp.arange(x_BTD.shape[1])[None, :, None] == last_B[:, None, None])
    return jnp.where(write_BT1, moved.astype(x_BTD.dtype), x_BTD), gate_B
