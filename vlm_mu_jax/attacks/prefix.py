"""A question's prompt, run once: the image's tokens, and the keys and values that all its candidates read.

The cache belongs to one image, one text and one state of the guard, and lives only as long as the search of that
question: nothing looks it up by text, so two images with the same text cannot share one.

The state of a guard's gates decides how the prompt's earlier tokens are steered, so candidates may share a prefix cache
only with candidates of the same gates. Two kinds of guard decide about the prompt as a whole:

- from a first pass without steering, once per example (`FirstPass`): the gates are computed for every candidate, and
  each group of equal gates gets a cache of its own;
- layer by layer while the prompt runs: candidates run on the cache of presumed gates, and count only where the gates
  they decide are the presumed ones. The others run again on the cache of the gates they decided. A layer's gate depends
  on earlier layers only, so every round settles at least one more layer: it ends, and is exact.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.data import tiling
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer, on_prefix
from vlm_mu_jax.model.vlm import Batch, encode_images, forward
from vlm_mu_jax.steering.shapes import check_shapes

_encode = jax.jit(encode_images, static_argnames="cfg")


@flax.struct.dataclass
class ImageTokens:
    """A question's image to the decoder: features_1QD and grid_1I2 as in `model.vlm.Batch`."""

    features_1QD: Array
    grid_1I2: Array | None = None

    def shown(self, tokens_BT: Array, lengths_B: Array) -> Batch:
        """Rows that all hold this image."""
        spread = functools.partial(_spread, rows=tokens_BT.shape[0])
        return Batch(tokens_BT, lengths_B, features_BQD=spread(self.features_1QD), grid_BI2=spread(self.grid_1I2))


def rows_with(image: ImageTokens | None, tokens_BT: Array, lengths_B: Array) -> Batch:
    """Rows that all hold this image, or none."""
    return Batch(tokens_BT, lengths_B) if image is None else image.shown(tokens_BT, lengths_B)


def _spread(x: Array | None, rows: int) -> ImageTokens | None:
    return None if x is None else jnp.broadcast_to(x, (rows, *x.shape[1:]))


@flax.struct.dataclass
class Prefix:
    """kv: keys and values [L, S, K, H] of a whole prompt, one copy for all rows. gate_L: the guard's gates on it."""

    kv: KV
    gate_L: Array | None = None


def image_features(
    params: Params, images: Sequence[Any], cfg: ModelConfig, put: Callable[[Any], Any] = lambda tree: tree
) -> ImageTokens | None:
    """A prompt's images, as `Processor.pixels` makes them, to the decoder; None without images.

    put: moves arrays to devices.
    """
    if not images:
        return None
    tokens = sum(len(image.gather_Q) for image in images) if isinstance(images[0], tiling.Tiles) else 0
    width = bucket(tokens) if tokens else 0  # few programs
    shown = put(tiling.stack([images], len(images), images[0], width))
    features_1QD = _encode(params, shown.pixels_BMHWC, gather_BQ=shown.gather_BQ, grid_BI2=shown.grid_BI2, cfg=cfg)
    return ImageTokens(features_1QD, shown.grid_BI2)


@functools.partial(jax.jit, static_argnames="cfg")
def run_prefix(
    params: Params,
    tokens_1S: Array,
    length_1: Array,
    image: ImageTokens | None,
    *,
    cfg: ModelConfig,
    steer: Steer | None = None,
    lora: dict[str, Any] | None = None,
) -> Prefix:
    """Runs a prompt and keeps what later tokens may read of it.

    Args:
      tokens_1S: int [1, S], the whole prompt, right-padded; length_1: int [1], its real tokens.
      image: its image, or None.
    """
    check_shapes(tokens_1S=tokens_1S, length_1=length_1)
    batch = rows_with(image, tokens_1S, length_1)
    out = forward(params, batch, cfg, steer=on_prefix(steer), lora=lora, keep_cache=True, logits=False)
    # Every token of the prompt is earlier than any candidate's own; only a sliding window needs to know how much.
    positions = None if cfg.text.sliding_window is None else out.cache.positions_BS
    kv = out.cache.replace(k=out.cache.k[:, 0], v=out.cache.v[:, 0], positions_BS=positions)
    return Prefix(kv, None if out.gate_LB is None else out.gate_LB[:, 0])


def upto(kv: KV, start: Array) -> KV:
    """The cache without the tokens from `start` on: causal, so the earlier ones are those of any prompt that begins the
    same way."""
    return kv.replace(valid_BS=kv.valid_BS & (jnp.arange(kv.valid_BS.shape[1])[None] < start))


def depends_on_gates(steer: Steer | None) -> bool:
    """Whether the cache is another one for another outcome of the guard's gates."""
    return on_prefix(steer) is not None and steer.gated


@dataclasses.dataclass(frozen=True)
class FirstPass:
    """A guard that decides once per example, from the unsteered states of a first pass.

    steer_of: states at each prompt's last token after every block, float32 [L, B, D] -> `Steer` with gate_LB.
    text_only: the first pass reads the question without its image. It never reads what the answer starts with.
    """

    steer_of: Callable[[np.ndarray], Steer]
    text_only: bool


def by_gates(gate_LN: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of equal gates: (gates bool [L], candidate numbers), the largest group first."""
    patterns, group_N = np.unique(gate_LN.astype(bool).T, axis=0, return_inverse=True)
    groups = [(pattern, np.flatnonzero(group_N.reshape(-1) == g)) for g, pattern in enumerate(patterns)]
    return sorted(groups, key=lambda item: -len(item[1]))
