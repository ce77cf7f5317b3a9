"""Moving tensors one by one: reading ahead, a few at a time, in memory that is used again.

New memory has to be cleared page by page by the system, which costs more than copying a weight into it; so tensors go
through a fixed number of buffers, which also bounds what a conversion holds at a time.
"""

import math
import queue
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.overlay import Tensors
from vlm_mu_jax.conversion.tensor_files import nbytes
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.progress import Progress

PutRows = Callable[[names.Slot, int, np.ndarray], None]

_BUFFERS = 3  # one is read into while two are written from
_PIECE_BYTES = 8 * 2**20  # of a tensor that is read in rows
_PANEL_BYTES = 4 * 2**20  # part of a transposed array that fits into the cache with its copy


def import_tensors(
    files: Tensors,
    slots: Sequence[names.Slot],
    dtypes: Mapping[str, np.dtype],
    put: Callable[[str, int | None, np.ndarray], None],
    progress: Progress,
    put_rows: PutRows | None = None,
) -> None:
    """Reads every tensor in the order of the files, and hands it over in our shape and dtype.

    Args:
      files: where from; read by one thread.
      slots: what to read.
      dtypes: path -> dtype to hand over.
      put: called with (path, layer, array), from several threads; it must not keep the array.
      progress: shown over tensors.
      put_rows: called for a part of a large tensor with (slot, first, rows of the file's tensor from `first` on), as
        `put` is. Without it every tensor is whole in memory for a moment.

    Raises:
      InputError: a number is too large for the dtype.
    """
    ordered = sorted(slots, key=lambda slot: (files.tensors[slot.key].file, files.tensors[slot.key].start))
    parts = [part for slot in ordered for part in (_parts(files, slot) if put_rows else [(slot, None)])]
    free = _buffers(max((_bytes(files, *part) for part in parts), default=0))

    def hand_over(slot: names.Slot, rows: tuple[int, int] | None, tensor: np.ndarray, buffer: np.ndarray) -> None:
        try:
            tensor = _cast(tensor, dtypes[slot.path], slot.key)
            if rows is None:
                put(slot.path, slot.layer, slot.layout.to_ours(tensor, slot.shape))
            else:
                put_rows(slot, rows[0], tensor)
        finally:
            free.put(buffer)

    pending: deque[Future] = deque()
    with ThreadPoolExecutor(_BUFFERS - 1) as pool:
        for slot, rows in progress(parts, "converting tensors", len(parts)):
            buffer = free.get()
            while pending and pending[0].done():
                pending.popleft().result()
            read = files.read(slot.key, buffer) if rows is None else files.read_rows(slot.key, *rows, buffer)
            pending.append(pool.submit(hand_over, slot, rows, read, buffer))
        for future in pending:
            future.result()


def _parts(files: Tensors, slot: names.Slot) -> list[tuple[names.Slot, tuple[int, int] | None]]:
    """The tensor whole (None), or in rows [first, last) of at most `_PIECE_BYTES` together."""
    info = files.tensors[slot.key]
    if nbytes(info) <= _PIECE_BYTES or not files.in_rows(slot.key):
        return [(slot, None)]
    count = info.shape[0]
    step = max(1, _PIECE_BYTES * count // nbytes(info))
    return [(slot, (first, min(first + step, count))) for first in range(0, count, step)]


def _bytes(files: Tensors, slot: names.Slot, rows: tuple[int, int] | None) -> int:
    info = files.tensors[slot.key]
    return nbytes(info) if rows is None else nbytes(info) // info.shape[0] * (rows[1] - rows[0])


def copy_rows(out: np.ndarray, slot: names.Slot, first: int, rows: np.ndarray) -> None:
    """Writes rows of the file's tensor, from `first` on, into our array of the slot."""
    flat, end = rows.reshape(len(rows), -1), first + len(rows)
    if slot.layout.transposed:
        copy(out.reshape(-1, slot.file_shape[0])[:, first:end], flat.T)
    else:
        out.reshape(slot.file_shape[0], -1)[first:end] = flat


def _cast(tensor: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore"):  # reported below
        cast = tensor.astype(dtype)
    if dtype == np.float16 and np.isinf(cast).any() and not np.isinf(tensor).any():
        raise InputError(f"--dtype=float16: {key} has numbers above 65504, the largest of float16; use bfloat16")
    return cast


def export_tensors(
    sizes: Mapping[names.Slot, int],
    read: Callable[[str, int | None, np.ndarray], np.ndarray],
    progress: Progress,
) -> Iterator[np.ndarray]:
    """Yields tensors as a file has them, as views; each is valid until the next is asked for.

    Args:
      sizes: the tensors in the order wanted, and the bytes of each.
      read: called with (path, layer, buffer), from several threads; reads one layer of a parameter, into the buffer or
        elsewhere.
      progress: shown over tensors.
    """
    free = _buffers(max(sizes.values(), default=0))

    def load(slot: names.Slot) -> tuple[np.ndarray, np.ndarray]:
        buffer = free.get()
        return slot.layout.file_view(read(slot.path, slot.layer, buffer)), buffer

    with ThreadPoolExecutor(_BUFFERS - 1) as pool:
        pending: deque[Future] = deque()
        waiting = iter(sizes)
        for _ in progress(sizes, "writing tensors", len(sizes)):
            while len(pending) < _BUFFERS - 1 and (slot := next(waiting, None)) is not None:
                pending.append(pool.submit(load, slot))
            tensor, buffer = pending.popleft().result()
            yield tensor
            free.put(buffer)


def panels(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array's rows in order, contiguous, a few at a time.

    JAX transposes several times faster than numpy, and fastest when the result stays in the processor's cache.
    """
    if array.flags.c_contiguous:
        yield array
        return
    cpu = jax.local_devices(backend="cpu")[0]
    rows = max(1, _PANEL_BYTES // (array.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield np.asarray(jax.device_put(array[start : start + rows], cpu))


def copy(out: np.ndarray, array: np.ndarray) -> None:
    """out[...] = array, quickly where the array is transposed."""
    start = 0
    for panel in panels(array):
        out[start : start + len(panel)] = panel
        start += len(panel)


def _buffers(size: int) -> "queue.SimpleQueue[np.ndarray]":
    free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(np.empty(size, np.uint8))
    return free
