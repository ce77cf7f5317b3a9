"""Llama-family decoder: one block, scanned over stacked layers, with steering and taps as data.

Steering vectors enter the scan as inputs and captured states leave it as outputs. With both off the traced program
holds no trace of them.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from vlm_mu_jax.model.attention import HeadsFirst, Segment, attend, causal_mask
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.flash import self_attention
from vlm_mu_jax.model.layers import linear, remat, rms_norm, rope, rope_angles, rope_frequencies
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.stacks import Run, runs
from vlm_mu_jax.parallel.activations import spread_rows


@flax.struct.dataclass
class KV:
    """Keys (after rotation) and values of all layers: k_LBSKH, v_LBSKH, or [L, S, K, H] when shared by all rows.

    [L, R, S, K, H] with R a divisor of the B rows that read it: shared by groups of B / R rows that follow each other.
    A tuple of L arrays [B, K, S, H]: see `apart`.
    positions_BS: position of each key in its row, or None where all are earlier than whatever reads them (then nothing
    of size rows x keys is made; not with a sliding window). valid_BS: False for padding.
    """

    k: Array | tuple[Array, ...]
    v: Array | tuple[Array, ...]
    positions_BS: Array | None
    valid_BS: Array


def apart(kv: KV) -> KV:
    """The same with an array [B, K, S, H] per layer, where one new token after the other reads it: on a processor a
    layer of a stack is copied whenever it is read, and once more to bring its heads to the front."""
    split = [tuple(x[layer].swapaxes(1, 2) for layer in range(len(x))) for x in (kv.k, kv.v)]
    return kv.replace(k=split[0], v=split[1])


@flax.struct.dataclass
class Steer:
    """h' = h + g * (strength_l * (h V_l^T) V_l + shift_l) at block output l and the positions of `scope`.

    basis_LMD: rows of V_l, orthonormal (zero rows leave a layer alone). strength_L: alpha per layer; -1 projects the
    subspace out, -2 reflects it, > 0 amplifies it. shift: constant to add, [L, D], or [L, B, D] for one per row.
    threshold_L: gate threshold. gate_LD: what the gate projects on; None = the first rows of V.
    gate_LB: per-layer, per-row gate in {0, 1} from an earlier forward; None = decide in this one.
    gated: False means g = 1. Gates decided here read the row's last token before steering: g = [h gate_l > threshold].
    norm_preserving: rescale h' to the norm of h.
    scope: positions written, one of SCOPES. everywhere: written are also the embedded tokens and the stream between
      attention and MLP, so that every reader of the stream sees h'; gates must then be known beforehand.
    """

    basis_LMD: Array
    strength_L: Array
    shift: Array
    threshold_L: Array
    gate_LD: Array | None = None
    gate_LB: Array | None = None
    gated: bool = flax.struct.field(pytree_node=False, default=False)
    norm_preserving: bool = flax.struct.field(pytree_node=False, default=False)
    scope: str = flax.struct.field(pytree_node=False, default="all")
    everywhere: bool = flax.struct.field(pytree_node=False, default=False)


# The prompt and every generated token; the whole prompt, its last token, its text or its image tokens; generated ones.
SCOPES = ("all", "prompt", "last", "text", "image", "generated")
LATE = ("last", "generated")  # of these, the ones that leave all of a prompt but its last token alone


def on_prefix(steer: Steer | None) -> Steer | None:
    """What steers a prompt's tokens before its last one: `steer`, or nothing where it writes later tokens only."""
    return None if steer is None or steer.scope in LATE else steer


def while_decoding(steer: Steer | None, gate_LB: Array | None) -> Steer | None:
    """What steers the tokens after the prompt: `steer` with the prompt's gates, or nothing."""
    if steer is None or steer.scope not in ("all", "generated"):
        return None
    return steer.replace(scope="all", gate_LB=gate_LB)


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
    image_BT: Array | None = None,
    tap: str | None = None,
    first: int = 0,
    upto: int | None = None,
    keep_kv: bool = False,
    last_only: bool = False,
) -> Decoded:
    """Runs decoder blocks first..upto (all by default) on embedded tokens, right-padded.

    Args:
      layers: stacked block parameters: arrays, or `stacks.Stack` where only some layers train.
      x_BTD: residual stream before block `first`; for block 0 the embedded tokens.
      lengths_B: real tokens of each row among these T.
      offset_B: position of the first of these tokens in its row (0 by default).
      past: key/value segments of earlier tokens that these may read; all of them stacks, or all `apart`.
      lora: {parameter name: {"a": [L, I, R], "b": [L, R, O...], "scale": [L]}}.
      steer: see `Steer`. image_BT: which tokens are an image's; needed by the scopes "text" and "image" only.
      tap: "last" returns float32 [L, B, D] block outputs at each row's last token, "all" [L, B, T, D].
      first, upto: first and last block to run, 0-based.
      keep_kv: return keys and values of these tokens.
      last_only: the last block runs for each row's last token alone (keys and values for all); x_BTD is [B, 1, D] then.
    """
    B, T, _ = x_BTD.shape
    offset_B = jnp.zeros((B,), jnp.int32) if offset_B is None else offset_B
    positions_BT = offset_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    angles = rope_angles(positions_BT, rope_frequencies(cfg, offset_B + lengths_B))
    last_B = lengths_B - 1
    layers_apart = bool(past) and isinstance(past[0].k, tuple)

    def only_last(x_BT: Array) -> Array:
        return x_BT[jnp.arange(B), last_B][:, None]

    def attention(q, k, v, earlier, last):
        if not past and not last:
            return self_attention(q, k, v, lengths_B, kernel=cfg.attention, window=cfg.sliding_window)
        at_BT = only_last(positions_BT) if last else positions_BT
        masks = [_past_mask(kv, at_BT, cfg) for kv in past]
        own = Segment(k, v, causal_mask(at_BT, positions_BT, offset_B + lengths_B, cfg.sliding_window))

        def read(q, earlier):
            kind = HeadsFirst if layers_apart else Segment
            segments = [kind(*kv, mask) for kv, mask in zip(earlier, masks, strict=True)]
            return attend(q, [*segments, own])

        if layers_apart:  # one branch per layer, each reading its own arrays where they lie
            by_layer = [[(kv.k[layer], kv.v[layer]) for kv in past] for layer in range(cfg.L)]
            return jax.lax.switch(earlier, [functools.partial(read, earlier=kv) for kv in by_layer], q)
        return checkpoint_name(read(q, earlier), "attn_out")

    def where(x: Array, last: bool) -> tuple[Array, Array]:
        """Each row's last token among those of x, and which of them are written."""
        at_B = jnp.zeros_like(last_B) if last else last_B
        image = image_BT if image_BT is None or not last else only_last(image_BT)
        return at_B, _written(steer.scope, x.shape[:2], at_B, image)

    def block(run, x, xs, last=False):
        p, lora = run.at(xs["p"], xs.get("layer")), xs.get("lora") or {}
        x = spread_rows(x)
        h = rms_norm(x, p["attn_norm_LD"], cfg.norm_eps)
        k, v = _keys_values(h, p, lora, angles)
        if last:
            x, h = only_last(x), only_last(h)
        q = _queries(h, p, lora, jax.tree.map(only_last, angles) if last else angles)
        x = x + _out(attention(q, k, v, xs["past"], last), p, lora)
        if steer is not None and steer.everywhere:
            x, _ = _steer(x, xs["steer"], *where(x, last), steer)
        x = x + _mlp(rms_norm(x, p["mlp_norm_LD"], cfg.norm_eps), p, lora)
        ys = {"k": k, "v": v} if keep_kv else {}
        if steer is not None:
            x, ys["gate"] = _steer(x, xs["steer"], *where(x, last), steer)
        if tap is not None:
            at_B = jnp.zeros_like(last_B) if last else last_B
            ys["tap"] = (x if tap == "all" else x[jnp.arange(B), at_B]).astype(jnp.float32)
        return x, ys

    others = {"past": jnp.arange(cfg.L) if layers_apart else [(kv.k, kv.v) for kv in past]}
    if lora:
        others["lora"] = lora
    if steer is not None:
        others["steer"] = {
            "basis": steer.basis_LMD,
            "strength": steer.strength_L,
            "shift": steer.shift,
            "threshold": steer.threshold_L,
            "gate_row": _gate_rows(steer),
            **({} if steer.gate_LB is None else {"gate": steer.gate_LB}),
        }
        if steer.everywhere and first == 0:
            layer_0 = jax.tree.map(lambda leaf: leaf[0], others["steer"])
            x_BTD, _ = _steer(x_BTD, layer_0, *where(x_BTD, False), steer)
    outputs, end = [], cfg.L if upto is None else upto + 1
    for run in runs(layers, first, end - last_only):
        xs = _inputs(run, others)
        x_BTD, ys = jax.lax.scan(remat(functools.partial(block, run), cfg.remat), x_BTD, xs, unroll=cfg.unroll)
        outputs.append(ys)
    if last_only:
        run = runs(layers, end - 1, end)[0]
        x_BTD, ys = block(run, x_BTD, jax.tree.map(lambda leaf: leaf[0], _inputs(run, others)), last=True)
        outputs.append(jax.tree.map(lambda y: y[None], ys))
    ys = outputs[0] if len(outputs) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
    kv = None
    if keep_kv:
        kv = KV(ys["k"], ys["v"], positions_BT, jnp.arange(T)[None] < lengths_B[:, None])
    return Decoded(x_BTD, kv, ys.get("tap"), ys.get("gate"))


def _inputs(run: Run, others: dict[str, Any]) -> dict[str, Any]:
    """What a scan over the run's blocks reads, layer by layer. others: further [L, ...] leaves."""
    xs = {"p": run.scanned, **(others if run.whole else run.cut(others))}
    return xs | {"layer": jnp.arange(run.first, run.end)} if run.in_place else xs


def _past_mask(kv: KV, positions_BT: Array, cfg: TextConfig) -> Array:
    if kv.positions_BS is None:
        return kv.valid_BS[:, None, :]
    key = kv.positions_BS[:, None, :]
    query = (positions_BT if kv.k[0].ndim == 3 else positions_BT.reshape(len(key), -1))[:, :, None]  # of a group
    mask = kv.valid_BS[:, None, :] & (key <= query)
    return mask if cfg.sliding_window is None else mask & (query - key < cfg.sliding_window)


def _queries(h: Array, p: Params, lora: dict, angles: tuple[Array, Array]) -> Array:
    return rope(linear(h, p["wq_LDNH"], p.get("bq_LNH"), lora.get("wq_LDNH")), angles)


def _keys_values(h: Array, p: Params, lora: dict, angles: tuple[Array, Array]) -> tuple[Array, Array]:
    k = linear(h, p["wk_LDKH"], p.get("bk_LKH"), lora.get("wk_LDKH"))
    v = linear(h, p["wv_LDKH"], p.get("bv_LKH"), lora.get("wv_LDKH"))
    return rope(k, angles), v


def _out(mixed_BTNH: Array, p: Params, lora: dict) -> Array:
    B, T, N, H = mixed_BTNH.shape
    return linear(mixed_BTNH.reshape(B, T, N * H), p["wo_LNHD"].reshape(N * H, -1), p.get("bo_LD"), lora.get("wo_LNHD"))


def _mlp(h: Array, p: Params, lora: dict) -> Array:
    gate = linear(h, p["wgate_LDF"], p.get("bgate_LF"), lora.get("wgate_LDF"))
    up = linear(h, p["wup_LDF"], p.get("bup_LF"), lora.get("wup_LDF"))
    return linear(jax.nn.silu(gate) * up, p["wdown_LFD"], p.get("bdown_LD"), lora.get("wdown_LFD"))


def _gate_rows(steer: Steer) -> Array:
    return steer.basis_LMD[:, 0] if steer.gate_LD is None else steer.gate_LD


def _written(scope: str, shape: tuple[int, int], last_B: Array, image_BT: Array | None) -> Array:
    """Which of these tokens a guard of this scope writes, bool [B, T] or [1, 1]."""
    if scope in ("text", "image"):
        return image_BT if scope == "image" else ~image_BT
    if scope == "last":
        return jnp.arange(shape[1])[None] == last_B[:, None]
    return jnp.full((1, 1), scope != "generated")


def _steer(x_BTD: Array, s: dict[str, Array], last_B: Array, written_BT: Array, steer: Steer) -> tuple[Array, Array]:
    """One layer of `Steer`, in float32; rows whose gate is 0 keep their exact bits."""
    B = x_BTD.shape[0]
    x32, basis_MD, shift = x_BTD.astype(jnp.float32), s["basis"].astype(jnp.float32), s["shift"].astype(jnp.float32)
    if not steer.gated:
        gate_B = jnp.ones((B,), jnp.float32)
    elif "gate" in s:
        gate_B = s["gate"].astype(jnp.float32)
    else:
        gate_B = (x32[jnp.arange(B), last_B] @ s["gate_row"].astype(jnp.float32) > s["threshold"]).astype(jnp.float32)
    shift_BTD = shift[:, None] if shift.ndim == 2 else shift[None, None]
    moved = x32 + s["strength"] * (x32 @ basis_MD.T) @ basis_MD + shift_BTD
    if steer.norm_preserving:
        norms = [jnp.linalg.norm(h, axis=-1, keepdims=True) for h in (x32, moved)]
        moved = moved * norms[0] / jnp.maximum(norms[1], 1e-12)
    write_BT1 = (gate_B[:, None] > 0)[:, :, None] & written_BT[:, :, None]
    return jnp.where(write_BT1, moved.astype(x_BTD.dtype), x_BTD), gate_B
