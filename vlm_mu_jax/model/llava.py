"""LLaVA: vision tower, projector and decoder joined over one token stream."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.decoder import KV, Steer, decode, decoder_specs
from vlm_mu_jax.model.layers import activation, linear, rms_norm
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.vision import encode, vision_specs


@flax.struct.dataclass
class Batch:
    """Right-padded rows.

    tokens_BT: ids; every image stands as cfg.vision.P consecutive `image_token_id`s, anywhere in the row.
    lengths_B: real tokens per row.
    pixels_BMHWC: M normalised images per row in the order of their placeholders (zeros fill short rows), or None.
    features_BQD: projected image tokens per row (Q = M * P) if they are known already; skips the vision tower.
    """

    tokens_BT: Array
    lengths_B: Array
    pixels_BMHWC: Array | None = None
    features_BQD: Array | None = None


@flax.struct.dataclass
class Output:
    """hidden_BTD: after the final norm (with `upto`: the residual stream). taps, gate_LB: see `decoder.decode`."""

    hidden_BTD: Array
    logits_BTV: Array | None = None
    taps: Array | None = None
    cache: KV | None = None
    gate_LB: Array | None = None


def param_specs(cfg: LlavaConfig) -> Specs:
    """Declaration of every parameter of the model."""
    specs: Specs = {"decoder": decoder_specs(cfg.text)}
    if cfg.vision is None:
        return specs
    D, E = cfg.text.D, cfg.vision.D * len(cfg.vision.feature_layers)
    specs["vision"] = vision_specs(cfg.vision)
    specs["projector"] = {
        "w1_ED": ParamSpec((E, D), (None, "embed")),
        "w2_DD": ParamSpec((D, D), (None, "embed")),
    }
    if cfg.projector_bias:
        specs["projector"] |= {name: ParamSpec((D,), ("embed",), "zeros") for name in ("b1_D", "b2_D")}
    return specs


def encode_images(params: Params, pixels_BMHWC: Array, cfg: LlavaConfig) -> Array:
    """Images of every row -> projected image tokens [B, M * P, D]."""
    B, M = pixels_BMHWC.shape[:2]
    features = encode(params["vision"], pixels_BMHWC.reshape(B * M, *pixels_BMHWC.shape[2:]), cfg.vision)
    p = params["projector"]
    h = activation(cfg.projector_activation)(linear(features, p["w1_ED"], p.get("b1_D")))
    return linear(h, p["w2_DD"], p.get("b2_D")).reshape(B, M * cfg.vision.P, cfg.text.D)


def embed(params: Params, batch: Batch, cfg: LlavaConfig) -> Array:
    """Token embeddings with image placeholders replaced, in order, by the row's image tokens. [B, T, D]."""
    x_BTD = params["decoder"]["embed_VD"].at[batch.tokens_BT].get(mode="clip")
    features = batch.features_BQD
    if features is None and batch.pixels_BMHWC is not None:
        features = encode_images(params, batch.pixels_BMHWC, cfg)
    if features is None:
        return x_BTD
    is_image_BT = batch.tokens_BT == cfg.image_token_id
    slot_BT = jnp.clip(jnp.cumsum(is_image_BT, axis=1) - 1, 0, features.shape[1] - 1)
    filled = jnp.take_along_axis(features, slot_BT[:, :, None], axis=1)
    return jnp.where(is_image_BT[:, :, None], filled.astype(x_BTD.dtype), x_BTD)


def logits_of(params: Params, hidden: Array, cfg: LlavaConfig) -> Array:
    """[..., D] after the final norm -> float32 logits [..., V]."""
    decoder = params["decoder"]
    head = decoder["embed_VD"].T if cfg.text.tie_embeddings else decoder["head_DV"]
    return jnp.tensordot(hidden, head, axes=1, preferred_element_type=jnp.float32)


def forward(
    params: Params,
    batch: Batch,
    cfg: LlavaConfig,
    *,
    lora: dict[str, Any] | None = None,
    steer: Steer | None = None,
    tap: str | None = None,
    upto: int | None = None,
    past: tuple[KV, ...] = (),
    offset_B: Array | None = None,
    keep_cache: bool = False,
    logits: bool = True,
) -> Output:
    """The whole model as one pure function.

    Args:
      params: tree of `param_specs(cfg)`.
      batch: rows; see `Batch`.
      lora: adapters, nested like the decoder's layers: {"wq_LDNH": {"a", "b", "scale"}, ...}.
      steer: steering along a direction; see `decoder.Steer`.
      tap: "last" or "all": return block outputs in `Output.taps`.
      upto: run decoder blocks 0..upto only and return the residual stream after it (RMU needs no more).
      past, offset_B: key/value segments of earlier tokens, and the position of this batch's first token per row.
      keep_cache: return this batch's keys and values.
      logits: False skips the vocabulary product.
    """
    decoder = params["decoder"]
    done = decode(
        decoder["layers"], embed(params, batch, cfg), batch.lengths_B, cfg.text,
        offset_B=offset_B, past=past, lora=lora, steer=steer, tap=tap, upto=upto, keep_kv=keep_cache,
    )  # fmt: skip
    if upto is not None:
        return Output(done.x_BTD, None, done.taps, done.kv, done.gate_LB)
    hidden = rms_norm(done.x_BTD, decoder["norm_D"], cfg.text.norm_eps)
    return Output(hidden, logits_of(params, hidden, cfg) if logits else None, done.taps, done.kv, done.gate_LB)


def cast(params: Params, dtype: Any) -> Params:
    """All floating leaves in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
