"""The decoder: one block (`block.py`), scanned over stacked layers.

What differs from layer to layer enters the scan as inputs (`_inputs`) and what is captured leaves it as outputs
(`_Pass.body`). Steering, taps, adapters and earlier keys that nobody asked for are in neither, so that the compiled
program holds no trace of them.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.attention import run_ends
from vlm_mu_jax.model.block import Layer, attention_half, block_specs, mlp_half, norm_init
from vlm_mu_jax.model.cache import KV, CacheReader, rotary_start
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.grids import Places
from vlm_mu_jax.model.layers import remat, rope_tables
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.model.stacks import Run, runs
from vlm_mu_jax.model.steer import Steer, Steering
from vlm_mu_jax.parallel.activations import spread_rows


@flax.struct.dataclass
class DecoderInput:
    """Right-padded rows as the decoder reads them.

    Attributes:
      x_BTD: residual stream before the first block that runs; for block 0 the embedded tokens.
      lengths_B: real tokens of each row among these T.
      image_BT: which tokens are an image's; needed by the steering scopes "text" and "image", and where the config
        says that an image's tokens read each other both ways. All tokens of an image are then among these or in `past`.
      places: three-axis rotary positions of these tokens; without them, tokens come one by one.
      deep_NBTD: what is added to the residual stream behind each of blocks 0..N - 1.
      past: key/value segments of earlier tokens that these may read; all of them stacks, or all `apart`.
      offset_B: position of the first of these tokens in its row (0 by default).
    """

    x_BTD: Array
    lengths_B: Array
    image_BT: Array | None = None
    places: Places | None = None
    deep_NBTD: Array | None = None
    past: tuple[KV, ...] = ()
    offset_B: Array | None = None


@flax.struct.dataclass
class Decoded:
    """x_BTD: residual stream after the last block run. kv: of these tokens. taps, gate_LB: see `decode`."""

    x_BTD: Array
    kv: KV | None = None
    taps: Array | None = None
    gate_LB: Array | None = None


def decoder_specs(cfg: TextConfig) -> Specs:
    """Declaration of the decoder's parameters: token embeddings, blocks, final norm and (unless tied) the head."""
    specs: Specs = {
        "embed_VD": ParamSpec((cfg.V, cfg.D), ("vocab", "embed")),
        "layers": block_specs(cfg),
        "norm_D": ParamSpec((cfg.D,), ("embed",), norm_init(cfg)),
    }
    if not cfg.tie_embeddings:
        specs["head_DV"] = ParamSpec((cfg.D, cfg.V), ("embed", "vocab"))
    return specs


def decode(
    layers: Params,
    rows: DecoderInput,
    cfg: TextConfig,
    *,
    lora: dict[str, Any] | None = None,
    steer: Steer | None = None,
    tap: str | None = None,
    first: int = 0,
    upto: int | None = None,
    keep_kv: bool = False,
    last_only: bool = False,
) -> Decoded:
    """Runs decoder blocks first..upto (all by default) on embedded tokens.

    Args:
      layers: stacked block parameters: arrays, or `stacks.Stack` where only some layers train.
      rows: what the blocks read.
      lora: {parameter name: {"a": [L, I, R], "b": [L, R, O...], "scale": [L]}}.
      steer: see `Steer`.
      tap: "last" returns float32 [L, B, D] block outputs at each row's last token, "all" [L, B, T, D].
      first, upto: first and last block to run, 0-based.
      keep_kv: return keys and values of these tokens.
      last_only: the last block runs for each row's last token alone (keys and values for all); x_BTD is [B, 1, D] then.
    """
    x_BTD, lengths_B, places, image_BT = rows.x_BTD, rows.lengths_B, rows.places, rows.image_BT
    B, T, _ = x_BTD.shape
    first_B = jnp.zeros((B,), jnp.int32) if rows.offset_B is None else rows.offset_B
    positions_BT = first_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    angles = rope_tables(cfg, _turns(cfg, positions_BT, rotary_start(rows.past, first_B), places), first_B + lengths_B)
    shift_BT = None if places is None else places.shift_BT
    both_ways = cfg.image_run is not None and image_BT is not None and T > 1
    until_BT = run_ends(image_BT) if both_ways else None
    reader = CacheReader(cfg, positions_BT, first_B, lengths_B, angles, rows.past, shift_BT, until_BT)
    steering = None if steer is None else Steering(steer, lengths_B - 1, image_BT)
    one = _Pass(cfg, reader, steering, tap, keep_kv, rows.deep_NBTD)
    others = {"read": reader.by_layer()} | ({"lora": lora} if lora else {})
    if rows.deep_NBTD is not None:
        others["deep"] = jnp.arange(cfg.L)
    if steering is not None:
        others["steer"] = steer.by_layer()
        x_BTD = steering.before(x_BTD) if first == 0 else x_BTD
    outputs, end = [], cfg.L if upto is None else upto + 1
    for run in runs(layers, first, end - last_only):
        body = remat(functools.partial(one.body, run), cfg.remat)
        x_BTD, ys = jax.lax.scan(body, x_BTD, _inputs(run, others), unroll=cfg.unroll)
        outputs.append(ys)
    if last_only:
        run = runs(layers, end - 1, end)[0]
        xs = jax.tree.map(lambda leaf: leaf[0], _inputs(run, others))
        x_BTD, ys = one.of_last_tokens().body(run, x_BTD, xs)
        outputs.append(jax.tree.map(lambda y: y[None], ys))
    ys = outputs[0] if len(outputs) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
    return Decoded(x_BTD, reader.kept(ys["k"], ys["v"]) if keep_kv else None, ys.get("tap"), ys.get("gate"))


def _turns(cfg: TextConfig, positions_BT: Array, start_B: Array, places: Places | None) -> Array:
    """What the tokens' rotary angles are made of: positions [B, T], or [B, T, 3]."""
    if places is not None:
        return start_B[:, None, None] + places.turn_BT3
    if not cfg.rope_axes:
        return positions_BT
    return start_B[:, None] + jnp.arange(positions_BT.shape[1], dtype=jnp.int32)[None]


@dataclasses.dataclass(frozen=True)
class _Pass:
    """What surrounds every block of one forward. steering, tap: None where nobody asked."""

    cfg: TextConfig
    reader: CacheReader
    steering: Steering | None
    tap: str | None
    keep_kv: bool
    deep_NBTD: Array | None = None

    def body(self, run: Run, x: Array, xs: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
        """One step of the scan: residual stream before a block -> after it, and what is captured."""
        layer = Layer(run.at(xs["p"], xs.get("layer")), xs.get("lora") or {}, self.cfg)
        ys = {}
        x, k, v = attention_half(spread_rows(x), layer, self.reader.of_layer(xs["read"]))
        if self.steering is not None:
            x = self.steering.between(x, xs["steer"])
        x = mlp_half(x, layer)
        if self.deep_NBTD is not None:
            x = x + self._deep(xs["deep"]).astype(x.dtype)
        if self.steering is not None:
            x, ys["gate"] = self.steering.after(x, xs["steer"])
        if self.keep_kv:
            ys |= {"k": k, "v": v}
        if self.tap is not None:
            ys["tap"] = (x if self.tap == "all" else self._last(x)).astype(jnp.float32)
        return x, ys

    def _deep(self, layer: Array) -> Array:
        """What is added behind this block to the tokens that ask."""
        count = len(self.deep_NBTD)
        found_BTD = jax.lax.dynamic_index_in_dim(self.deep_NBTD, jnp.minimum(layer, count - 1), keepdims=False)
        return self.reader.asking(jnp.where(layer < count, found_BTD, 0))

    def of_last_tokens(self) -> "_Pass":
        """The same for a block in which each row's last token alone asks."""
        reader, steering = dataclasses.replace(self.reader, last=True), self.steering
        if steering is not None:
            image_BT = None if steering.image_BT is None else reader.asking(steering.image_BT)
            steering = Steering(steering.steer, jnp.zeros_like(steering.last_B), image_BT)
        return dataclasses.replace(self, reader=reader, steering=steering)

    def _last(self, x_BTD: Array) -> Array:
        """Each row's last token, [B, D]."""
        return x_BTD[:, 0] if self.reader.last else x_BTD[jnp.arange(len(x_BTD)), self.reader.lengths_B - 1]


def _inputs(run: Run, others: dict[str, Any]) -> dict[str, Any]:
    """What a scan over the run's blocks reads, layer by layer. others: further [L, ...] leaves."""
    xs = {"p": run.scanned, **(others if run.whole else run.cut(others))}
    return xs | {"layer": jnp.arange(run.first, run.end)} if run.in_place else xs
