"""Training rows of long data: tokenised when a step reads them, not before the first step.

A run reads few of 665,000 conversations in its first minutes. Which ones is known from the seed, so rows are found by
their place, and a resumed run goes on at the same one. What needs all rows at once is measured on a sample: the lengths
that batches are padded to. A row longer than the sample's is padded to the longest length that the settings allow.
"""

import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from vlm_mu_jax.data.batches import TrainRow
from vlm_mu_jax.data.mixed import Mixed
from vlm_mu_jax.errors import InputError

SAMPLE = 512  # rows that tell the lengths
_KEPT = 8192  # rows that stay in memory: a batch is asked for more than once
_TRIES = 1000  # neighbours that are looked at where a row cannot be used

Fit = Callable[[int], tuple[TrainRow | None, list[str]]]  # place of a record -> its row, and what was done to it


class LongRows(Sequence):
    """The rows of a stream, tokenised one by one.

    A row that cannot be used (its prompt is too long) is replaced by the next one that can; `counts` says how often.

    Attributes:
      counts: what was done to the rows that were read so far.
      images_per_row: images of the row that has the most.
    """

    def __init__(self, records: Mixed, fit: Fit, longest: int, identity: str) -> None:
        """
        Args:
          records: what to train on.
          fit: makes a row.
          longest: tokens of the longest row that `fit` makes.
          identity: names the data, the template and everything else that decides the rows.
        """
        self._places, self._fit, self._identity = records.usable(), fit, identity
        self.unanswered = len(records) - len(self._places)
        if not len(self._places):
            raise InputError("no conversation of the data has an answer to train on; check the files")
        self.longest, self.images_per_row, self.digest = longest, records.most_images, records.digest
        self.counts: Counter[str] = Counter()
        self._counted: set[int] = set()
        self._lock = threading.Lock()
        self._row = functools.lru_cache(maxsize=_KEPT)(self._made)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> TrainRow:
        return self._row(int(index))

    def _made(self, index: int) -> TrainRow:
        for near in range(index, index + _TRIES):
            row, what = self._fit(int(self._places[near % len(self)]))
            with self._lock:  # batches are built in threads
                if near % len(self) not in self._counted:
                    self._counted.add(near % len(self))
                    self.counts.update(what)
                    self.counts["rows"] += row is not None
            if row is not None:
                return row
        raise InputError(f"{_TRIES} conversations in a row leave no room for an answer; raise data.max_length")

    def lengths(self, buckets: int) -> tuple[int, ...]:
        """Lengths to pad to: quantiles of a sample, its longest row, and `longest`."""
        some = np.random.default_rng(0).choice(len(self), min(SAMPLE, len(self)), replace=False)
        own = np.sort([len(self[i].ids) for i in some])
        picked = own[np.ceil(np.arange(1, buckets + 1) / buckets * len(own)).astype(int) - 1]
        found = sorted({-(-int(n) // 8) * 8 for n in (*picked, self.longest)})
        return (found[0], found[0] + 8) if len(found) == 1 else tuple(found)

    def fingerprint(self) -> bytes:
        """What decides the rows, and the first of them as they are."""
        head = hashlib.sha256(f"{self._identity}/{self.digest}/{len(self)}".encode())
        for i in range(min(8, len(self))):
            head.update(np.asarray(self[i].ids, np.int32).tobytes() + np.asarray(self[i].mask, np.uint8).tobytes())
        return head.digest()

    def any_image(self) -> object:
        """An image of one of the rows, for its shape."""
        for i in range(len(self)):
            if self[i].images:
                return self[i].images[0]
        raise InputError("no row has an image")
