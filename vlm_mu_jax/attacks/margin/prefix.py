"""The candidate prompts of one question behind one prefix: their token ids, their blocks, and the cache they read.

A candidate is tokenised as the whole text that a user would send, never as "prefix ids + word ids", because pieces may
merge across the place where the word was put. What it has in common with the unchanged prompt is then read off the ids.
Most candidates share everything before the word. The few that do not are run as whole prompts, and counted.

The unchanged prompt runs once, image included. Its cache belongs to one image, one text and one state of the guard
(`guards.py`), and lives only as long as the search of that question: nothing looks it up by text, so two images with
the same text cannot share one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.data import tiling
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.data.prompts import Images, Processor, bucket
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.generate import marked
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.steer import Steer, on_prefix
from vlm_mu_jax.model.vlm import Batch, encode_images, forward
from vlm_mu_jax.steering.shapes import check_shapes

# Widths of blocks are multiples of a step. A compiled program costs seconds and padding is work: the more blocks a
# search has, the finer the step. Pairs of (blocks from which on, step).
WIDTH_STEPS = ((16, 1), (4, 4), (0, 8))
_encode = jax.jit(encode_images, static_argnames="cfg")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of one question. head: ids all of them start with (up to the end of the image). tails: the rest of each.

    original: the rest of the unchanged prompt. image_end: tokens up to the end of the last image, 0 without one.
    """

    head: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    original: tuple[int, ...]
    image_end: int

    @property
    def original_ids(self) -> tuple[int, ...]:
        return self.head + self.original

    def lengths(self) -> np.ndarray:
        """Tokens of each whole prompt."""
        return len(self.head) + np.array([len(tail) for tail in self.tails], np.int32)


@dataclasses.dataclass(frozen=True)
class Block:
    """Candidates of one program. index_C: their numbers, -1 for rows that only fill the block.

    start: tokens taken from the question's prefix cache; None = the rows are whole prompts. tokens_CT and lengths_C
    hold the tokens after them.
    """

    index_C: np.ndarray
    start: int | None
    tokens_CT: np.ndarray
    lengths_C: np.ndarray


def tokenise(
    processor: Processor, question: str, images: Images, placed: Sequence[Placed], context: Context | None = None
) -> Prompts:
    """The prompts of all candidates of one question.

    Texts are tokenised whole, with one token for each run of image tokens. Where a word stands before an image, the
    prompts have no head in common.

    Args:
      images: all images of the prompt, as `Processor` takes them.
      context: the conversation around the question, or None.
    """
    texts = [(question, ""), *((one.question, one.answer_start) for one in placed)]
    rows = processor.short_ids(texts, images, context)
    image = processor.cfg.image_token_id
    pictured = image in rows[0] if images else False
    ends = [len(row) - row[::-1].index(image) if pictured else 0 for row in rows]
    first = rows[0][: ends[0]]
    head = processor.lengthened(first, images)
    if all(row[:end] == first for row, end in zip(rows, ends, strict=True)):
        original, *tails = [row[end:] for row, end in zip(rows, ends, strict=True)]
        return Prompts(head, tuple(tails), original, len(head))
    original, *tails = [processor.lengthened(row, images) for row in rows]
    return Prompts((), tuple(tails), original, len(head))


def shared_start(prompts: Prompts, index: np.ndarray) -> tuple[int, np.ndarray]:
    """(tokens to take from the unchanged prompt's cache, which of the candidates `index` share that many).

    Of the starts that at least half of them share, the one with the fewest tokens left to run is taken: a few
    candidates that share less (their first piece merges with what stands before it) are run in full rather than shorten
    everyone's start. A candidate keeps at least its last token, whose state is read. Nothing is shared before the
    image's end: then no candidate shares.
    """
    tails = [prompts.tails[i] for i in index]
    common = np.array([_common(tail, prompts.original) for tail in tails])
    length = np.array([len(tail) for tail in tails])
    starts = np.unique(common)
    starts = starts[starts <= np.median(common)]
    left = [np.where(common >= n, length - n, len(prompts.head) + length).sum() for n in starts]
    best = int(starts[int(np.argmin(left))])
    if len(prompts.head) + best < max(prompts.image_end, 1):
        return 0, np.zeros(len(index), bool)
    return len(prompts.head) + best, common >= best


def _common(tail: tuple[int, ...], original: tuple[int, ...]) -> int:
    """Tokens both start with, at most all but the last of `tail`."""
    most = min(len(tail) - 1, len(original))
    return next((i for i in range(most) if tail[i] != original[i]), most)


def blocks(prompts: Prompts, index: np.ndarray, start: int | None, size: int, multiple: int = 1) -> Iterator[Block]:
    """Cuts the candidates `index` into blocks of one width each, short ones first. start as in `Block`.

    `size` candidates share a block; whole prompts, which are longer, come in blocks of about as many tokens. The number
    of rows is rounded up to a multiple of `multiple` (the devices they are spread over).
    """
    # a model whose image tokens read each other both ways needs them all on one side
    assert start is None or not len(index) or start >= prompts.image_end, "a shared start ends before its image does"
    skip = 0 if start is None else start - len(prompts.head)
    head = prompts.head if start is None else ()
    length = np.array([len(prompts.tails[i]) - skip + len(head) for i in index])
    if start is None:
        size = max(1, int(size * 32 / max(length.max(initial=1), 32)))
    size = -(-size // multiple) * multiple
    step = next(step for blocks, step in WIDTH_STEPS if len(index) >= blocks * size)
    order = np.argsort(length, kind="stable")
    for at in range(0, len(order), size):
        chosen = order[at : at + size]
        longest = int(length[chosen[-1]])
        width = bucket(longest) if start is None else -(-longest // step) * step
        tokens, lengths, numbers = (
            np.zeros((size, width), np.int32),
            np.ones(size, np.int32),
            np.full(size, -1, np.int32),
        )
        for row, i in enumerate(chosen):
            ids = head + prompts.tails[index[i]][skip:]
            tokens[row, : len(ids)], lengths[row], numbers[row] = ids, len(ids), index[i]
        yield Block(numbers, start, tokens, lengths)


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
    cache = marked(out.cache, batch, cfg, steer)
    kv = cache.replace(k=out.cache.k[:, 0], v=out.cache.v[:, 0], positions_BS=positions)
    return Prefix(kv, None if out.gate_LB is None else out.gate_LB[:, 0])


def upto(kv: KV, start: Array) -> KV:
    """The cache without the tokens from `start` on: causal, so the earlier ones are those of any prompt that begins the
    same way."""
    return kv.replace(valid_BS=kv.valid_BS & (jnp.arange(kv.valid_BS.shape[1])[None] < start))
