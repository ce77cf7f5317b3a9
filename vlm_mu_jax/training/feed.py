"""Batches of the coming steps, built by threads while the device works.

A process builds only the rows that lie on its own devices. Which rows make up step k does not depend on the processes;
it is a pure function of the streams' seeds and k.
"""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.parallel.mesh import process_rows, put_batch

AHEAD = 3  # batches built before they are needed; each has a thread, since decoding an image releases the lock


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """The batch of one step.

    Attributes:
      rows: stream name -> TrainBatch on the mesh, whose leaves are [micro-batches, rows, ...].
      tokens: number of real tokens in it, over all processes.
      lengths: to which the rows of every stream are padded. They decide all shapes.
    """

    rows: dict[str, Any]
    tokens: int
    lengths: tuple[int, ...]


class Feed:
    """`with Feed(...) as feed: feed.next()` gives the batches of steps start, start + 1, ... stop - 1 in order."""

    def __init__(self, streams: Mapping[str, Stream], mesh: Mesh, accumulate: int, start: int, stop: int) -> None:
        self._streams, self._mesh, self._accumulate = dict(streams), mesh, accumulate
        self._coming = iter(range(start, stop))
        self._waiting: list[Future] = []
        self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="feed")

    def __enter__(self) -> "Feed":
        for _ in range(AHEAD):
            self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def peek(self) -> StepBatch:
        """The coming batch, which `next` gives once more."""
        return self._waiting[0].result()

    def next(self) -> StepBatch:
        """Raises what building the batch raised."""
        batch = self._waiting.pop(0).result()
        self._ask()
        return batch

    def _ask(self) -> None:
        k = next(self._coming, None)
        if k is not None:
            self._waiting.append(self._threads.submit(self._build, k))

    def _build(self, k: int) -> StepBatch:
        rows, tokens = {}, 0
        indices = {name: stream.indices(k) for name, stream in self._streams.items()}
        lengths = common_lengths(self._streams, indices)
        for name, stream in self._streams.items():
            tokens += sum(len(stream.rows[i].ids) for i in indices[name])
            rows[name] = put_rows(stream, indices[name], self._mesh, self._accumulate, lengths[name])
        return StepBatch(rows, tokens, tuple(lengths.values()))


def common_lengths(streams: Mapping[str, Stream], indices: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The length to pad each stream's rows to, by stream name.

    Streams that may have the same lengths get the same one. A step then has as many shapes as there are lengths,
    whatever the number of streams.
    """
    fits = {name: stream.fit(indices[name]) for name, stream in streams.items()}
    return {
        name: max(fits[other] for other in streams if streams[other].lengths == stream.lengths)
        for name, stream in streams.items()
    }


def put_rows(stream: Stream, indices: np.ndarray, mesh: Mesh, accumulate: int, length: int) -> Any:
    """The rows `indices` of a stream, padded to `length`, on the mesh as [accumulate, rows / accumulate, ...].

    Builds this process's rows alone.
    """
    count = len(indices) // accumulate
    mine = process_rows(mesh, count)
    chosen = np.asarray(indices).reshape(accumulate, count)[:, mine]
    local = jax.tree.map(lambda x: x.reshape(*chosen.shape, *x.shape[1:]), stream.take(chosen.ravel(), length))
    return put_batch(local, mesh, count, axis=1)
