"""A vision-language model: tower, connector and decoder joined over one token stream."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.checks import check_batch
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.cpu_weights import WideMap
from vlm_mu_jax.model.decoder import DecoderInput, decode, decoder_specs
from vlm_mu_jax.model.grids import places
from vlm_mu_jax.model.image_plans.image_plan import Blend
from vlm_mu_jax.model.layers import rms_norm
from vlm_mu_jax.model.params import Params, Specs
from vlm_mu_jax.model.stacks import freeze
from vlm_mu_jax.model.steer import Steer


@flax.struct.dataclass
class Batch:
    """Right-padded rows.

    tokens_BT: ids; an image stands as one `image_token_id` per image token, anywhere in the row.
    lengths_B: real tokens per row.
    pixels_BMHWC: M normalised images per row in the order of their placeholders (zeros fill short rows), or None.
      Each gives cfg.vision.P image tokens; a picture that is tiled takes cfg.vision.tiles of them. To a tower that
      reads pictures of any size, the patches of all pictures, one behind the other.
    grid_BI2: rows and columns of image tokens of each picture (0 for none), for such a tower and for three-axis rotary
      positions; needed wherever image tokens are. See `grids.py`.
    vision_BMPE: the vision tower's output of these images if it is known already (E as wide as the tower's layers the
      projector reads); skips the tower, and the projector can still train.
    features_BQD: projected image tokens per row in the order of their placeholders, if they are known already; skips
      tower and projector. Where the decoder's first blocks add image features to the stream, those stand behind the D
      values of a token, block by block.
    gather_BQ: where pictures of different sizes have different numbers of tokens: which feature each image token is
      (see `image_plans.ImagePlan.gather`), or which features it blends. Data, not shapes: pictures of all sizes run in
      one compiled program.
    embedded_BTD: what `embed` makes of the row if it is known already, so that a gradient can be taken of it.
    """

    tokens_BT: Array
    lengths_B: Array
    pixels_BMHWC: Array | None = None
    features_BQD: Array | None = None
    gather_BQ: Array | Blend | None = None
    vision_BMPE: Array | None = None
    embedded_BTD: Array | None = None
    grid_BI2: Array | None = None


@flax.struct.dataclass
class Output:
    """hidden_BTD: after the final norm (with `upto`: the residual stream). taps, gate_LB: see `decoder.decode`."""

    hidden_BTD: Array
    logits_BTV: Array | None = None
    taps: Array | None = None
    cache: KV | None = None
    gate_LB: Array | None = None


def param_specs(cfg: ModelConfig) -> Specs:
    """Declaration of every parameter of the model."""
    specs: Specs = {"decoder": decoder_specs(cfg.text)}
    if cfg.vision is None:
        return specs
    vision = cfg.vision
    specs["vision"] = vision.tower.specs()
    specs["projector"] = vision.connector.specs(vision.tower.E, cfg.text.D)
    return specs


def encode_images(
    params: Params,
    pixels_BMHWC: Array,
    cfg: ModelConfig,
    gather_BQ: Array | Blend | None = None,
    grid_BI2: Array | None = None,
) -> Array:
    """Images of every row -> projected image tokens [B, M * P, D]; with `gather_BQ` (see `Batch`) packed, [B, Q, D]."""
    return project(params, encode_tower(params, pixels_BMHWC, cfg, grid_BI2), cfg, gather_BQ)


def encode_tower(params: Params, pixels_BMHWC: Array, cfg: ModelConfig, grid_BI2: Array | None = None) -> Array:
    """Images of every row -> what the projector reads, [B, M, P, E]."""
    if grid_BI2 is not None:
        return cfg.vision.tower.encode(params["vision"], pixels_BMHWC, grid_BI2)
    B, M = pixels_BMHWC.shape[:2]
    features_IPE = cfg.vision.tower.encode(params["vision"], pixels_BMHWC.reshape(B * M, *pixels_BMHWC.shape[2:]))
    return features_IPE.reshape(B, M, *features_IPE.shape[1:])


def project(params: Params, vision_BMPE: Array, cfg: ModelConfig, gather_BQ: Array | Blend | None = None) -> Array:
    """The tower's output -> projected image tokens, as `encode_images` returns them."""
    connector, B = cfg.vision.connector, vision_BMPE.shape[0]
    features_BQD = connector.project(params["projector"], vision_BMPE)
    features_BQD = features_BQD.reshape(B, -1, features_BQD.shape[-1])
    if gather_BQ is None:
        return features_BQD
    extra_XD = connector.extra(params["projector"])
    if extra_XD is not None:
        extra_BXD = jnp.broadcast_to(extra_XD[None].astype(features_BQD.dtype), (B, *extra_XD.shape))
        features_BQD = jnp.concatenate([extra_BXD, features_BQD], axis=1)
    if isinstance(gather_BQ, Blend):
        return _blended(features_BQD, gather_BQ)
    return jnp.take_along_axis(features_BQD, gather_BQ[:, :, None], axis=1)


def _blended(features_BFD: Array, blend: Blend) -> Array:
    """Weighted sums of features, in float32 as torch interpolates. [B, Q, D]."""
    taps = range(blend.index_QK.shape[-1])
    parts = (
        jnp.take_along_axis(features_BFD, blend.index_QK[:, :, k, None], axis=1) * blend.weight_QK[:, :, k, None]
        for k in taps
    )
    return sum(parts).astype(features_BFD.dtype)


def embed(params: Params, batch: Batch, cfg: ModelConfig) -> Array:
    """Token embeddings with image placeholders replaced, in order, by the row's image tokens. [B, T, D]."""
    return decoder_input(params, batch, cfg).x_BTD


def decoder_input(params: Params, batch: Batch, cfg: ModelConfig) -> DecoderInput:
    """What the decoder reads of a batch."""
    x_BTD, deep_NBTD = _with_images(params, batch, cfg)
    image_BT = image_tokens(batch, cfg)
    by_grid = cfg.text.rope_axes and batch.grid_BI2 is not None
    where = places(image_BT, batch.grid_BI2) if by_grid else None
    return DecoderInput(x_BTD, batch.lengths_B, image_BT, where, deep_NBTD)


def _with_images(params: Params, batch: Batch, cfg: ModelConfig) -> tuple[Array, Array | None]:
    """(`embed`, what is added to the image tokens behind blocks 0..N - 1 [N, B, T, D], or None)."""
    features, deep_NBTD, is_image_BT = _features(params, batch, cfg), None, image_tokens(batch, cfg)
    if features is not None:
        slot_BT = jnp.clip(jnp.cumsum(is_image_BT, axis=1) - 1, 0, features.shape[1] - 1)
        filled = jnp.take_along_axis(features, slot_BT[:, :, None], axis=1)
        if cfg.text.deep:
            filled, *deep = jnp.split(filled, 1 + cfg.text.deep, axis=-1)
            deep_NBTD = jnp.where(is_image_BT[None, :, :, None], jnp.stack(deep), 0)
    if batch.embedded_BTD is not None:
        return batch.embedded_BTD, deep_NBTD
    x_BTD = params["decoder"]["embed_VD"].at[batch.tokens_BT].get(mode="clip")
    if cfg.text.embed_scale is not None:
        x_BTD = x_BTD * jnp.asarray(cfg.text.embed_scale, x_BTD.dtype)
    if features is not None:
        x_BTD = jnp.where(is_image_BT[:, :, None], filled.astype(x_BTD.dtype), x_BTD)
    return x_BTD, deep_NBTD


def _features(params: Params, batch: Batch, cfg: ModelConfig) -> Array | None:
    """The row's image tokens [B, Q, D or more], from the latest stage that is known."""
    if batch.features_BQD is not None:
        return batch.features_BQD
    if batch.vision_BMPE is not None:
        return project(params, batch.vision_BMPE, cfg, batch.gather_BQ)
    if batch.pixels_BMHWC is not None:
        return encode_images(params, batch.pixels_BMHWC, cfg, batch.gather_BQ, batch.grid_BI2)
    return None


def image_tokens(batch: Batch, cfg: ModelConfig) -> Array:
    """Which tokens are an image's, [B, T]."""
    return batch.tokens_BT == (-1 if cfg.image_token_id is None else cfg.image_token_id)


def final_norm(params: Params, x_BTD: Array, cfg: ModelConfig) -> Array:
    """Residual stream after the last block -> what the head reads."""
    return rms_norm(x_BTD, params["decoder"]["norm_D"], cfg.text.norm_eps, cfg.text.norm_offset)


def logits_of(params: Params, hidden: Array, cfg: ModelConfig) -> Array:
    """[..., D] after the final norm -> float32 logits [..., V]."""
    decoder = params["decoder"]
    if isinstance(decoder.get("head_DV"), WideMap):
        return decoder["head_DV"].product(hidden)
    head = decoder["embed_VD"].T if cfg.text.tie_embeddings else decoder["head_DV"]
    return jnp.tensordot(hidden, head, axes=1, preferred_element_type=jnp.float32)


def forward(
    params: Params,
    batch: Batch,
    cfg: ModelConfig,
    *,
    lora: dict[str, Any] | None = None,
    steer: Steer | None = None,
    tap: str | None = None,
    upto: int | None = None,
    past: tuple[KV, ...] = (),
    offset_B: Array | None = None,
    keep_cache: bool = False,
    logits: bool = True,
    last_only: bool = False,
) -> Output:
    """The whole model as one pure function.

    Args:
      params: tree of `param_specs(cfg)`.
      batch: rows; see `Batch`.
      lora: adapters, nested like the decoder's layers: {"wq_LDNH": {"a", "b", "scale"}, ...}.
      steer: steering along a direction; see `steer.Steer`.
      tap: "last" or "all": return block outputs in `Output.taps`.
      upto: run decoder blocks 0..upto only and return the residual stream after it (RMU needs no more).
      past, offset_B: key/value segments of earlier tokens, and the position of this batch's first token per row.
      keep_cache: return this batch's keys and values.
      logits: False skips the vocabulary product.
      last_only: hidden states and logits of each row's last token alone, [B, 1, ...]; the last block computes no other.
        The decoder's weights get no gradient then.

    Raises:
      InputError: a batch of wrong shapes, dtypes or lengths; see `checks.check_batch`.
    """
    check_batch(batch, cfg)
    layers = params["decoder"]["layers"]
    done = decode(
        freeze(layers) if last_only else layers,
        decoder_input(params, batch, cfg).replace(past=past, offset_B=offset_B),
        cfg.text,
        lora=lora,
        steer=steer,
        tap=tap,
        upto=upto,
        keep_kv=keep_cache,
        last_only=last_only,
    )
    if upto is not None:
        return Output(done.x_BTD, None, done.taps, done.kv, done.gate_LB)
    hidden = final_norm(params, done.x_BTD, cfg)
    return Output(hidden, logits_of(params, hidden, cfg) if logits else None, done.taps, done.kv, done.gate_LB)


def cast(params: Params, dtype: Any) -> Params:
    """All floating leaves in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
