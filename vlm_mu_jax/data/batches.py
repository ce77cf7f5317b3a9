"""Training streams: batch k is a pure function of (rows, seed, k).

The step number is then all the state that an iterator has. A resumed run, or one on another number of hosts, reads the
same batches. Streams of different lengths cycle independently and exactly. (The Safety Mirage training code restarts
one stream when another ends, so part of its retain data is never seen.)

Rows may be padded to one of several lengths. The order within every CHUNK batches is then rearranged so that a batch
holds rows of like length. Every epoch still has every row once. Chunk c of all streams is rearranged in the same way,
so that a step that reads several streams reads their short batches together. As many programs are compiled as there
are lengths.
"""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import grain
import numpy as np
from jax import Array

from vlm_mu_jax.data import tiling
from vlm_mu_jax.data.prompts import Example
from vlm_mu_jax.data.tiling import Stacked, Tiles
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.model.vlm import Batch

IMAGE_CACHE_BYTES = 2 << 30
MULTIPLE = 8  # of row lengths, so that few shapes are compiled
CHUNK = 16  # batches whose rows are sorted by length among themselves


@flax.struct.dataclass
class TrainBatch:
    """Padded rows with the tokens that carry the loss.

    Leaves may have a leading axis of micro-batches.

    Attributes:
      batch: the rows.
      mask_BT: True at loss tokens.
      reference_nll_B: summed NLL of a row's loss tokens under the model before training, when an objective asked for
        it.
      window_BW: ascending positions of a row (0..T - 1) that hold all its loss tokens and the token before the first.
        Logits are computed at these alone. None = at all positions.
    """

    batch: Batch
    mask_BT: Array
    reference_nll_B: Array | None = None
    window_BW: Array | None = None


@dataclasses.dataclass(frozen=True)
class TrainRow:
    """One example.

    Attributes:
      id: its name in messages.
      ids: token ids.
      mask: which of them carry the loss.
      images: its images, as pixels or as keys for a stream's `load_image`.
    """

    id: str
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    images: tuple[Any, ...] = ()


def row(example: Example, images: Sequence[Any] = (), id: str = "") -> TrainRow:
    """A row from an example. Its answers and their ends carry the loss."""
    return TrainRow(id, tuple(example.ids), example.mask, tuple(images))


def bucket_lengths(rows: Sequence[TrainRow], count: int) -> tuple[int, ...]:
    """Row lengths to pad to, ascending, at most `count`: quantiles of the rows' own, rounded up to multiples of 8.

    Raises:
      InputError: `count` is below 1.
    """
    if count < 1:
        raise InputError(f"data.buckets must be at least 1, not {count}")
    own = np.sort([len(one.ids) for one in rows])
    if not len(own):
        return (MULTIPLE,)  # the stream without rows is refused by name
    picked = own[np.ceil(np.arange(1, count + 1) / count * len(own)).astype(int) - 1]
    return tuple(sorted({-(-int(n) // MULTIPLE) * MULTIPLE for n in picked}))


class Stream:
    """An endless sequence of batches that can be indexed: `stream[k]` is a numpy `TrainBatch`.

    The shapes of a batch depend only on the length that it is padded to, which is one of `lengths`.
    """

    def __init__(
        self,
        rows: Sequence[TrainRow],
        batch_size: int,
        seed: int,
        *,
        name: str = "train",
        load_image: Callable[[Any], np.ndarray | Tiles] | None = None,
        lengths: Sequence[int] | None = None,
        order_of: "Stream | None" = None,
        image_token_id: int | None = None,
        encoded: Callable[[Any], int] | None = None,
    ) -> None:
        """
        Args:
          rows: examples, or `long_rows.LongRows`. Every epoch is another permutation of them.
          batch_size: rows per batch (per step, before it is split into micro-batches).
          seed: with `name`, decides the order.
          load_image: turns an image key of a row into pixels, as `Processor.pixels` does. None when rows hold pixels.
          lengths: tokens per row that batches may be padded to. By default one length, that of the longest row rounded
            up.
          order_of: another stream of as many rows, such as the other half of preference pairs. Batch k holds the rows
            with the same indices as its batch k.
          image_token_id: of rows whose images are of any size: the id that tells how much room these need. None makes
            room for a whole row of them.
          encoded: of rows whose images are cut into tiles: how many encoded images an image has, as
            `Processor.encoded_images` says. None makes room for the most that an image can have.

        Raises:
          InputError: no rows, a row without loss tokens, or a row longer than `lengths`.
        """
        if order_of is not None and (len(order_of.rows), order_of.batch_size) != (len(rows), batch_size):
            raise InputError(f"{name} and {order_of.name} are pairs: they need as many rows and one batch size")
        self.is_long = hasattr(rows, "images_per_row")  # rows that are made when a step reads them
        self.rows = rows if self.is_long else tuple(rows)
        self.batch_size, self.seed, self.name = batch_size, seed, name
        self._load, self._leader, self._image_token_id, self._encoded = load_image, order_of, image_token_id, encoded
        if self.is_long:
            self.lengths, self.images_per_row = tuple(lengths or rows.lengths(1)), rows.images_per_row
        else:
            _check(self.rows, batch_size, name, None if lengths is None else max(lengths))
            self.lengths = bucket_lengths(self.rows, 1) if lengths is None else tuple(sorted(lengths))
            self.images_per_row = max(len(r.images) for r in self.rows)
        self._reference: np.ndarray | None = None
        order = grain.MapDataset.range(len(self.rows)).seed(zlib.crc32(f"{seed}/{name}".encode()))
        self._order = order.shuffle().repeat().batch(batch_size)
        self._chunks: dict[int, np.ndarray] = {}  # the last one: batches are mostly asked for in turn
        self._windows: dict[int, int] = {}
        self._room: dict[int, int] = {}
        self._tiles: dict[int, int] = {}
        self._cached: Callable[[Any], np.ndarray | Tiles] | None = None
        self._features: Callable[[Any], np.ndarray | Tiles] | None = None

    def __getitem__(self, k: int) -> TrainBatch:
        return self.take(self.indices(k))

    def indices(self, k: int) -> np.ndarray:
        """Row indices of batch k."""
        if self._leader is not None:
            return self._leader.indices(k)
        if len(self.lengths) == 1 + self.is_long:  # one length is asked for; long rows have their longest one beside it
            return np.asarray(self._order[k])
        size = min(CHUNK, max(len(self.rows) // self.batch_size, 1))
        return self._chunk(k // size, size)[k % size]

    def fit(self, indices: Sequence[int]) -> int:
        """The smallest of `lengths` that holds these rows."""
        longest = max(len(self.rows[int(i)].ids) for i in indices)
        return next(length for length in self.lengths if length >= longest)

    def take(self, indices: Sequence[int], length: int | None = None) -> TrainBatch:
        """The batch of these rows, padded to `length`, by default to the smallest length that fits."""
        chosen = [self.rows[int(i)] for i in indices]
        length = length or self.fit(indices)
        tokens = np.zeros((len(chosen), length), np.int32)
        mask = np.zeros((len(chosen), length), bool)
        for i, one in enumerate(chosen):
            tokens[i, : len(one.ids)] = one.ids
            mask[i, : len(one.ids)] = one.mask
        lengths = np.array([len(one.ids) for one in chosen], np.int32)
        reference = None if self._reference is None else self._reference[np.asarray(indices)]
        shown = self._stack(chosen, length)
        if shown is None:
            batch = Batch(tokens, lengths)
        else:
            given = "pixels_BMHWC" if self._features is None else "vision_BMPE"
            tables = {"gather_BQ": shown.gather_BQ, "grid_BI2": shown.grid_BI2}
            batch = Batch(tokens, lengths, **{given: shown.pixels_BMHWC}, **tables)
        return TrainBatch(batch, mask, reference, self._window(mask))

    def with_reference(self, nll: np.ndarray) -> "Stream":
        """The same stream, whose batches carry `reference_nll_B`. nll: float32, one number per row, in nats."""
        return self._with(_reference=np.asarray(nll, np.float32))

    def with_features(self, features: Callable[[Any], np.ndarray | Tiles]) -> "Stream":
        """The same stream, whose batches carry `vision_BMPE` instead of pixels.

        features: an image of a row -> the vision tower's output [P, E] for it, or `Tiles` that hold [M, P, E].
        """
        return self._with(_features=features)

    def fingerprint(self) -> str:
        """Hash of everything that decides the batches, but for the contents of images given by key."""
        order = (self._leader or self).name
        digest = hashlib.sha256(f"{self.batch_size}/{self.seed}/{order}/{self.lengths}".encode())
        if self.is_long:
            digest.update(self.rows.fingerprint())
        for one in () if self.is_long else self.rows:
            digest.update(_row_bytes(one))
            digest.update(b"|".join(map(_image_bytes, one.images)))
        return digest.hexdigest()

    def row_key(self, index: int) -> str:
        """Content hash of one row: ids (so also template and tokenizer), mask and pixels."""
        one = self.rows[index]
        digest = hashlib.sha256(_row_bytes(one))
        for image in one.images:
            digest.update(self.pixels(image).tobytes())
        return digest.hexdigest()

    def pixels(self, image: Any) -> np.ndarray | Tiles:
        """An image of a row, loaded. Those used last are kept in memory."""
        if self._load is None:
            return image
        if self._cached is None:  # the first image that is asked for tells how many fit
            size = max(self._load(image).nbytes, 1)
            self._cached = functools.lru_cache(maxsize=max(IMAGE_CACHE_BYTES // size, 1))(self._load)
        return self._cached(image)

    def _with(self, **changes: Any) -> "Stream":
        other = object.__new__(Stream)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def _chunk(self, c: int, size: int) -> np.ndarray:
        """Row indices [size, batch_size] of the batches c * size .. c * size + size - 1."""
        if (known := self._chunks.get(c)) is not None:
            return known
        rows = np.concatenate([self._order[c * size + i] for i in range(size)])
        # A chunk may hold the end of one epoch and the start of the next. Sorted together, a row that is in both
        # would meet itself in one batch.
        epoch = (c * len(rows) + np.arange(len(rows))) // len(self.rows)
        lengths = [len(self.rows[i].ids) for i in rows]
        batches = rows[np.lexsort((lengths, epoch))].reshape(size, self.batch_size)
        made = batches[np.random.default_rng([self.seed, c]).permutation(size)]
        self._chunks = {c: made}
        return made

    def _window(self, mask_BT: np.ndarray) -> np.ndarray | None:
        """`TrainBatch.window_BW`. Its width depends on the length of the rows alone."""
        B, T = mask_BT.shape
        if self.is_long:
            return None  # what the widest row needs is not known before all are read
        if T not in self._windows:
            spans = [_span(one.mask) for one in self.rows if len(one.ids) <= T]
            self._windows[T] = -(-max(end - start for start, end in spans) // 8) * 8
        width = self._windows[T]
        if width >= T:
            return None
        starts = np.array([min(_span(row)[0], T - width) for row in mask_BT], np.int32)
        return starts[:, None] + np.arange(width, dtype=np.int32)[None]

    def _stack(self, chosen: Sequence[TrainRow], length: int) -> Stacked | None:
        if not self.images_per_row:
            return None
        read = self._features or self.pixels
        images = [[read(image) for image in one.images] for one in chosen]
        like = next((image for row_images in images for image in row_images), None)
        if like is None:
            any_image = self.rows.any_image() if self.is_long else next(i for one in self.rows for i in one.images)
            like = read(any_image)
        most, tokens = self.images_per_row, self._image_tokens(length)
        return tiling.stack(images, most, like, width=length, tokens=tokens, encoded=self._most_encoded(length, like))

    def _most_encoded(self, length: int, like: np.ndarray | Tiles) -> int | None:
        """The most encoded images of a row that is padded to this length; of long rows, which are not known, the most
        that there can be."""
        if not isinstance(like, Tiles) or like.grid is not None:
            return None
        if self._encoded is None or self.is_long:
            return self.images_per_row * like.most
        if length not in self._tiles:
            rows = (one.images for one in self.rows if len(one.ids) <= length)
            self._tiles[length] = max(max((sum(map(self._encoded, images)) for images in rows), default=1), 1)
        return self._tiles[length]

    def _image_tokens(self, length: int) -> int:
        """The most image tokens of a row that is padded to this length; of long rows, which are not known, `length`."""
        if self._image_token_id is None or self.is_long:
            return length
        if length not in self._room:
            found = [one.ids.count(self._image_token_id) for one in self.rows if len(one.ids) <= length]
            self._room[length] = -(-max(found, default=1) // 8) * 8 or 8
        return self._room[length]


def _span(mask: Sequence[bool]) -> tuple[int, int]:
    """First and end position of a row's loss tokens and of the token before the first."""
    places = np.flatnonzero(mask)
    return max(int(places[0]) - 1, 0), int(places[-1]) + 1


def _image_bytes(image: Any) -> bytes:
    return image.tobytes() if isinstance(image, np.ndarray | Tiles) else buckets.named(str(image)).encode()


def _row_bytes(one: TrainRow) -> bytes:
    return np.asarray(one.ids, np.int32).tobytes() + np.asarray(one.mask, np.uint8).tobytes()


def _check(rows: Sequence[TrainRow], batch_size: int, name: str, length: int | None) -> None:
    if not rows:
        raise InputError(f"the {name} data is empty; check the data files and filters")
    if batch_size < 1:
        raise InputError(f"the batch size of {name} must be at least 1, not {batch_size}")
    for one in rows:
        if len(one.ids) != len(one.mask):
            raise InputError(f"{name} example {one.id!r}: {len(one.ids)} tokens but {len(one.mask)} mask values")
        if not any(one.mask[1:]):
            raise InputError(f"{name} example {one.id!r} has no answer tokens; drop it or give it an answer")
        if length is not None and len(one.ids) > length:
            raise InputError(
                f"{name} example {one.id!r} has {len(one.ids)} tokens, more than length {length}; raise data.max_length"
            )
