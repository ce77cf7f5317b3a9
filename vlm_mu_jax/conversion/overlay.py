"""Checkpoint files with tensors added, replaced or computed on reading.

The converter reads tensors by key. An `Overlay` lies over the files of a folder and answers for some keys itself: a
vision tower from a second folder, embeddings with rows for new tokens, weights with a LoRA adapter added. Nothing is
computed before its tensor is asked for, so that memory stays bounded by one tensor.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from vlm_mu_jax.conversion.tensor_files import DTYPES, TensorInfo


class Tensors(Protocol):
    """What the converter reads from: `tensor_files.TensorFiles`, and overlays over it."""

    folder: Path
    names: list[str]
    problems: list[str]
    tensors: dict[str, TensorInfo]

    def read(self, key: str, into: np.ndarray | None = None) -> np.ndarray: ...

    def in_rows(self, key: str) -> bool: ...

    def read_rows(self, key: str, first: int, last: int, into: np.ndarray) -> np.ndarray: ...

    def sha256(self) -> Iterator[tuple[str, str]]: ...


def same_tensor(files: Tensors, one: str, other: str) -> bool:
    """Whether both keys are there and hold the same bits, in the same shape."""
    a, b = files.tensors.get(one), files.tensors.get(other)
    if a is None or b is None or a.dtype not in DTYPES or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return files.read(one).tobytes() == files.read(other).tobytes()


class Overlay:
    """`Tensors` of which some come from elsewhere.

    Args:
      below: answers for all other keys.
      tensors: header of every key that this overlay answers for.
      read: value of such a key.
      problems: what is wrong with it, reported together with the problems of the files.
      sources: (folder's name in the provenance, its files) that it reads and that below does not know of.
    """

    def __init__(
        self,
        below: Tensors,
        tensors: Mapping[str, TensorInfo],
        read: Callable[[str], np.ndarray],
        problems: Iterable[str] = (),
        sources: Iterable[tuple[str, Tensors]] = (),
    ):
        self._below, self._own, self._read, self._sources = below, tensors, read, tuple(sources)
        self.folder = below.folder
        self.names = [*below.names, *(f"{label}/{name}" for label, files in self._sources for name in files.names)]
        self.problems = [*below.problems, *problems]
        self.tensors = {**below.tensors, **tensors}

    def read(self, key: str, into: np.ndarray | None = None) -> np.ndarray:
        """One tensor; `into` is memory that may be used, see `TensorFiles.read`."""
        return self._read(key) if key in self._own else self._below.read(key, into)

    def in_rows(self, key: str) -> bool:
        """Whether `read_rows` can read the tensor; what is computed is computed whole."""
        return key not in self._own and self._below.in_rows(key)

    def read_rows(self, key: str, first: int, last: int, into: np.ndarray) -> np.ndarray:
        """See `TensorFiles.read_rows`."""
        return self._below.read_rows(key, first, last, into)

    def sha256(self) -> Iterator[tuple[str, str]]:
        yield from self._below.sha256()
        for label, files in self._sources:
            yield from ((f"{label}/{name}", digest) for name, digest in files.sha256())
