"""Keys and values of earlier tokens, and how the tokens of one forward read them beside their own."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from vlm_mu_jax.model.attention import HeadsFirst, Segment, attend, causal_mask
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.flash import self_attention
from vlm_mu_jax.model.layers import Angles

_EVERYTHING = 2**30  # a window wider than any row


@flax.struct.dataclass
class KV:
    """Keys (after rotation) and values of all layers.

    k, v: one of
      [L, B, S, K, H]: every row has its own.
      [L, S, K, H]: shared by all rows.
      [L, R, S, K, H] with R a divisor of the B rows: shared by groups of B / R rows that follow each other.
      a tuple of L float32 arrays [B, K, S, H]: see `apart`.
    positions_BS: position of each key in its row. None says that all are earlier than whatever reads them; the mask of
      size rows x keys is then never made. A sliding window needs the positions.
    valid_BS: False for padding.
    shift_BS: what each key adds to the difference between rotary position and token index of what follows; None where
      there is no difference. See `grids.Places`.
    image_BS: which tokens are an image's; None where nobody asks.
    blind_B: rows that do not read these images; None = all rows read all. See `without_images`.
    """

    k: Array | tuple[Array, ...]
    v: Array | tuple[Array, ...]
    positions_BS: Array | None
    valid_BS: Array
    shift_BS: Array | None = None
    image_BS: Array | None = None
    blind_B: Array | None = None

    @property
    def is_apart(self) -> bool:
        return isinstance(self.k, tuple)

    def mask(self, positions_BT: Array, window: int | Array | None) -> Array:
        """True where a query at these positions may read a key, broadcastable to [B or R, T, S]."""
        mask = self.valid_BS[:, None, :]
        if self.positions_BS is not None:
            key = self.positions_BS[:, None, :]
            of_group = positions_BT if self.k[0].ndim == 3 else positions_BT.reshape(len(key), -1)
            query = of_group[:, :, None]
            mask &= key <= query
            mask = mask if window is None else mask & (query - key < window)
        return mask if self.blind_B is None else mask & self._seen(positions_BT.shape[1])

    def _seen(self, T: int) -> Array:
        """False where one of T queries of a blind row meets a token of an image, in the shape of `mask`."""
        B, (R, S) = len(self.blind_B), self.image_BS.shape
        seen_BS = ~(jnp.repeat(self.image_BS, B // R, axis=0) & self.blind_B[:, None])
        return seen_BS[:, None] if self.k[0].ndim == 3 else jnp.repeat(seen_BS.reshape(R, B // R, S), T, axis=1)


def without_images(past: tuple[KV, ...], gate_LB: Array) -> tuple[KV, ...]:
    """These segments as later tokens read them where a guard hides images: not at all in rows with an open gate.

    The prompt's own tokens have read the image.
    """
    blind_B = gate_LB.max(axis=0) > 0
    return tuple(kv if kv.image_BS is None else kv.replace(blind_B=blind_B) for kv in past)


def readable(kv: KV, cfg: TextConfig) -> KV:
    """A segment all of which is earlier than whatever reads it: only a sliding window needs to know by how much."""
    return kv if cfg.sliding_window is not None else kv.replace(positions_BS=None)


def rotary_start(past: tuple[KV, ...], first_B: Array) -> Array:
    """Rotary position [B] of the tokens that follow these segments. first_B: their index in the row."""
    for kv in past:
        if kv.shift_BS is not None:
            shift_R = jnp.where(kv.valid_BS, kv.shift_BS, 0).sum(axis=1)
            first_B += jnp.repeat(shift_R, len(first_B) // len(shift_R))
    return first_B


def apart(kv: KV) -> KV:
    """The same keys and values with one float32 array [B, K, S, H] per layer, for decoding token by token on a CPU.

    XLA on CPU copies a layer of a stack whenever the layer is read, and copies it again to bring its heads to the
    front. Arrays that are apart are read where they lie. Of bfloat16 ones it would convert all tokens at every step, to
    read them and to add one.
    """
    k, v = (tuple(x[layer].swapaxes(1, 2).astype(jnp.float32) for layer in range(len(x))) for x in (kv.k, kv.v))
    return kv.replace(k=k, v=v)


@dataclasses.dataclass(frozen=True)
class CacheReader:
    """Attention of one forward: its tokens read each other causally, and the segments of `past` before them.

    positions_BT: position of each token in its row. first_B: the position of a row's first token here.
    lengths_B: real tokens of each row among these T. angles: rotary angles of the tokens, see `layers.rope_tables`.
    shift_BT: see `KV.shift_BS`.
    until_BT: before which of these T tokens the keys of each stand, see `attention.run_ends`; None = all is causal.
    last: only each row's last token asks; all tokens are still read.
    window, earlier: one layer's own, set by `of_layer`.
    """

    cfg: TextConfig
    positions_BT: Array
    first_B: Array
    lengths_B: Array
    angles: Angles
    past: tuple[KV, ...] = ()
    shift_BT: Array | None = None
    until_BT: Array | None = None
    last: bool = False
    window: int | Array | None = None
    earlier: Any = None

    @property
    def is_apart(self) -> bool:
        """Whether the segments of `past` are arrays per layer; see `apart`."""
        return bool(self.past) and self.past[0].is_apart

    def by_layer(self) -> dict[str, Any]:
        """What layer l reads of its own, each leaf with a leading layer axis; only what differs between layers.

        earlier: the layer's part of `past`, or its number. window: keys that it reads. rope: which of two tables.
        """
        cfg, found = self.cfg, {"earlier": [(kv.k, kv.v) for kv in self.past]}
        if self.is_apart:
            found["earlier"] = jnp.arange(cfg.L)
        windowed = np.array([cfg.has_window(layer) for layer in range(cfg.L)])
        if cfg.windowed:
            found["window"] = jnp.asarray(np.where(windowed, cfg.sliding_window, _EVERYTHING), jnp.int32)
        if cfg.window_rope_theta is not None:
            found["rope"] = jnp.asarray(windowed, jnp.int32)
        return found

    def of_layer(self, own: dict[str, Any]) -> "CacheReader":
        """The reader of one layer. own: its part of `by_layer`."""
        angles = self.angles
        if "rope" in own:
            angles = jax.tree.map(lambda both: both[own["rope"]], angles)
        window = own.get("window", self.cfg.sliding_window)
        return dataclasses.replace(self, earlier=own["earlier"], window=window, angles=angles)

    def asking(self, x_BT: Array) -> Array:
        """Of [B, T, ...] those tokens that ask: all, or [B, 1, ...] with `last`."""
        return x_BT[jnp.arange(len(self.lengths_B)), self.lengths_B - 1][:, None] if self.last else x_BT

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        """Mixed values [B, T or 1, N, H] of the asking tokens in this layer."""
        if not self.past and not self.last:
            both_ways = {} if self.until_BT is None else {"until_BT": self.until_BT, "run": self.cfg.image_run}
            return self_attention(q, k, v, self.lengths_B, kernel=self.cfg.attention, window=self.window, **both_ways)
        at_BT = self.asking(self.positions_BT)
        masks = [kv.mask(at_BT, self.window) for kv in self.past]
        until_BT = None if self.until_BT is None else self.asking(self.first_B[:, None] + self.until_BT)
        mask = causal_mask(at_BT, self.positions_BT, self.first_B + self.lengths_B, self.window, until_BT)
        own = Segment(k, v, mask)

        def read(q: Array, earlier: list[tuple[Array, Array]]) -> Array:
            kind = HeadsFirst if self.is_apart else Segment
            segments = [kind(*kv, mask) for kv, mask in zip(earlier, masks, strict=True)]
            return attend(q, [*segments, own])

        if self.is_apart:  # one branch per layer, each reading its own arrays where they lie
            layers = [[(kv.k[layer], kv.v[layer]) for kv in self.past] for layer in range(self.cfg.L)]
            return jax.lax.switch(self.earlier, [functools.partial(read, earlier=kv) for kv in layers], q)
        return checkpoint_name(read(q, self.earlier), "attn_out")

    def kept(self, k_LBTKH: Array, v_LBTKH: Array) -> KV:
        """The keys and values of these tokens as a segment that later ones may read."""
        T = self.positions_BT.shape[1]
        valid_BT = jnp.arange(T)[None] < self.lengths_B[:, None]
        return KV(k_LBTKH, v_LBTKH, self.positions_BT, valid_BT, self.shift_BT)
