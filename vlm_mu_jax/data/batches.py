"""Training streams: batch k is a pure function of (rows, seed, k).

The step is then the only iterator state: a resumed run, or one on another number of hosts, reads the same batches,
and streams of different lengths cycle independently and exactly (the Safety Mirage training code restarts one when
another ends, so part of its retain data is never seen).
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

from vlm_mu_jax.data.prompts import Example
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.llava import Batch

IMAGE_CACHE_BYTES = 2 << 30


@flax.struct.dataclass
class TrainBatch:
    """Padded rows with the tokens that carry the loss.

    mask_BT: True at loss tokens. reference_nll_B: their summed NLL under the model before training, when an
    objective asked for it. Leaves may have a leading axis of micro-batches.
    """

    batch: Batch
    mask_BT: Array
    reference_nll_B: Array | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One example: token ids, which of them carry the loss, and its images (pixels or keys for `load_image`)."""

    id: str
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    images: tuple[Any, ...] = ()


def row(example: Example, images: Sequence[Any] = (), id: str = "") -> Row:
    """A row from a prompt and answer; the answer and its end token carry the loss."""
    start = example.answer_start
    return Row(id, tuple(example.ids), (False,) * start + (True,) * (len(example.ids) - start), tuple(images))


class Stream:
    """An endless, index-addressable sequence of batches: `stream[k]` is a numpy `TrainBatch` of static shape."""

    def __init__(
        self,
        rows: Sequence[Row],
        batch_size: int,
        seed: int,
        *,
        name: str = "train",
        load_image: Callable[[Any], np.ndarray] | None = None,
        length: int | None = None,
        multiple: int = 8,
    ) -> None:
        """
        Args:
          rows: examples; every epoch is another permutation of them.
          batch_size: rows per batch (per step, before it is split into micro-batches).
          seed: with `name`, decides the order.
          load_image: turns an image key of a row into float32 HWC pixels; None when rows hold pixels themselves.
          length: tokens per row; by default the longest row rounded up to `multiple`.

        Raises:
          InputError: no rows, a row without loss tokens, or a row longer than `length`.
        """
        self.rows, self.batch_size, self.seed, self.name = tuple(rows), batch_size, seed, name
        self._load = load_image
        _check(self.rows, batch_size, name, length)
        longest = max(len(r.ids) for r in self.rows)
        self.length = length or -(-longest // multiple) * multiple
        self.images_per_row = max(len(r.images) for r in self.rows)
        self._reference: np.ndarray | None = None
        order = grain.MapDataset.range(len(self.rows)).seed(zlib.crc32(f"{seed}/{name}".encode()))
        self._order = order.shuffle().repeat().batch(batch_size)
        self._pixels = self._image_cache()

    def __getitem__(self, k: int) -> TrainBatch:
        return self.take(self.indices(k))

    def indices(self, k: int) -> np.ndarray:
        """Row indices of batch k."""
        return np.asarray(self._order[k])

    def take(self, indices: Sequence[int]) -> TrainBatch:
        """The batch of these rows."""
        chosen = [self.rows[int(i)] for i in indices]
        tokens = np.zeros((len(chosen), self.length), np.int32)
        mask = np.zeros((len(chosen), self.length), bool)
        for i, one in enumerate(chosen):
            tokens[i, : len(one.ids)] = one.ids
            mask[i, : len(one.ids)] = one.mask
        lengths = np.array([len(one.ids) for one in chosen], np.int32)
        reference = None if self._reference is None else self._reference[np.asarray(indices)]
        return TrainBatch(Batch(tokens, lengths, self._stack(chosen)), mask, reference)

    def with_reference(self, nll: np.ndarray) -> "Stream":
        """The same stream, whose batches carry `reference_nll_B`; nll: float32, one per row, in nats."""
        other = object.__new__(Stream)
        other.__dict__.update(self.__dict__, _reference=np.asarray(nll, np.float32))
        return other

    def fingerprint(self) -> str:
        """Hash of everything that decides the batches, but for the contents of images given by key."""
        digest = hashlib.sha256(f"{self.batch_size}/{self.seed}/{self.name}/{self.length}".encode())
        for one in self.rows:
            digest.update(_row_bytes(one))
            digest.update(b"|".join(i.tobytes() if isinstance(i, np.ndarray) else str(i).encode() for i in one.images))
        return digest.hexdigest()

    def row_key(self, index: int) -> str:
        """Content hash of one row: ids (so also template and tokenizer), mask and pixels."""
        one = self.rows[index]
        digest = hashlib.sha256(_row_bytes(one))
        for image in one.images:
            digest.update(self._pixels(image).tobytes())
        return digest.hexdigest()

    def _image_cache(self) -> Callable[[Any], np.ndarray]:
        first = next((image for one in self.rows for image in one.images), None)
        if self._load is None:
            return lambda image: image
        size = 1 if first is None else max(self._load(first).nbytes, 1)
        return functools.lru_cache(maxsize=max(IMAGE_CACHE_BYTES // size, 1))(self._load)

    def _stack(self, chosen: Sequence[Row]) -> np.ndarray | None:
        if not self.images_per_row:
            return None
        images = [[self._pixels(image) for image in one.images] for one in chosen]
        shape = next((image.shape for row_images in images for image in row_images), None) or self._shape()
        pixels = np.zeros((len(chosen), self.images_per_row, *shape), np.float32)
        for i, row_images in enumerate(images):
            for j, image in enumerate(row_images):
                pixels[i, j] = image
        return pixels

    def _shape(self) -> tuple[int, ...]:
        return self._pixels(next(image for one in self.rows for image in one.images)).shape


def _row_bytes(one: Row) -> bytes:
    return np.asarray(one.ids, np.int32).tobytes() + np.asarray(one.mask, np.uint8).tobytes()


def _check(rows: Sequence[Row], batch_size: int, name: str, length: int | None) -> None:
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
