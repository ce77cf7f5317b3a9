"""Records of several sources as one sequence, in any order, without building them: long files stay on the disk."""

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.data.readers.long_files import IndexedItems
from vlm_mu_jax.data.records import KINDS, Record, Records

Part = Sequence[Record]  # a list, or the records of a file


def is_long(records: Part) -> bool:
    """Whether the records are built when they are asked for."""
    return isinstance(records, Mixed) or isinstance(_items(records), IndexedItems)


def _items(records: Part) -> Part:
    return records.items if isinstance(records, Records) else records


@dataclasses.dataclass(frozen=True)
class Mixed(Sequence):
    """The records of `parts`, one after the other, or in the order of `order_N`, places in that sequence."""

    parts: tuple[Part, ...]
    order_N: np.ndarray

    @classmethod
    def of(cls, *parts: Part) -> "Mixed":
        flat: list[Part] = []
        order, offset = [np.zeros(0, np.int64)], 0
        for part in map(_items, parts):
            some, places = (part.parts, part.order_N) if isinstance(part, Mixed) else ((part,), np.arange(len(part)))
            flat += some
            order.append(offset + places)
            offset += sum(map(len, some))
        return cls(tuple(flat), np.concatenate(order))

    def __len__(self) -> int:
        return len(self.order_N)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return dataclasses.replace(self, order_N=self.order_N[index])
        part, place = self._place(int(self.order_N[index]))
        return part[place]

    def _place(self, at: int) -> tuple[Part, int]:
        for part in self.parts:
            if at < len(part):
                return part, at
            at -= len(part)
        raise IndexError(at)

    def shuffled(self, generator: random.Random) -> "Mixed":
        """In the order in which `generator.shuffle` would put the list of these records."""
        order = list(range(len(self)))
        generator.shuffle(order)
        return dataclasses.replace(self, order_N=self.order_N[np.array(order)])

    def drawn(self, generator: random.Random, count: int) -> "Mixed":
        """Those that `generator.sample` would draw of the list of these records."""
        return dataclasses.replace(self, order_N=self.order_N[generator.sample(range(len(self)), count)])

    def usable(self) -> np.ndarray:
        """Places of the records whose first question has an answer."""
        return np.flatnonzero(self._each(lambda part: part.answered_N, lambda record: bool(record.answer.strip())))

    def kinds(self) -> Counter[str]:
        """How many records of each kind there are."""
        found = self._each(lambda part: part.kind_N, lambda record: KINDS.index(record.kind))
        return Counter({kind: int((found == i).sum()) for i, kind in enumerate(KINDS) if (found == i).any()})

    def _each(self, of_file, of_record) -> np.ndarray:
        """A value for every record, in their order: known of a long file, else computed."""
        values = [
            of_file(part) if isinstance(part, IndexedItems) else np.array([of_record(record) for record in part], int)
            for part in self.parts
        ]
        return np.concatenate(values)[self.order_N] if values else np.zeros(0, int)

    @property
    def most_images(self) -> int:
        """Images of the record that has the most."""
        counts = [
            part.most_images if isinstance(part, IndexedItems) else max((len(r.images) for r in part), default=0)
            for part in self.parts
        ]
        return max(counts, default=0)

    @property
    def digest(self) -> str:
        """Hash of the order and of where the records come from. The contents of long files count by their files' own
        hashes, which a run keeps beside it."""
        digest = hashlib.sha256(self.order_N.astype("<i8").tobytes())
        for part in self.parts:
            if isinstance(part, IndexedItems):
                digest.update(f"{part.rows.path}/{len(part)}".encode())
            else:
                digest.update(repr([record.id for record in part]).encode("utf-8", "replace"))
        return digest.hexdigest()
