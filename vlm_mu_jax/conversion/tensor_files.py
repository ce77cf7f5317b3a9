"""The weights files of one checkpoint folder: which tensor is where, and reading one at a time.

Both formats store every tensor as plain bytes somewhere in a file: safetensors says where in a header, PyTorch's `.bin`
in a pickle (see torch_pickle.py). Tensors are read with plain reads into memory of the caller, not mapped, so that the
memory of the process is what the caller takes, and the sha256 of a file is computed from the same bytes in passing.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vlm_mu_jax.conversion import torch_pickle
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.files.json_file import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE = "pytorch_model.bin"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_NUMPY = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
_HEADER_BYTES = 100_000_000  # what the library allows
_PIECE_BYTES = 2**20  # small enough to be hashed while it is in the cache


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Header of one tensor. dtype as safetensors spells it ("BF16"); start: its first byte in the file."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    strides: tuple[int, ...] | None = None  # in elements; None: rows follow each other


class TensorFiles:
    """Tensors of some files of a folder. Opening reads headers only; `read` copies one tensor into memory.

    One thread at a time may read.

    Args:
      folder: where the files are.
      files: their names.
      index: key -> file, where an index file says so; {} otherwise.
      index_name: name of the index file.

    Raises:
      InputError: a file is broken.
    """

    def __init__(self, folder: Path, files: list[str], index: dict[str, str] | None = None, index_name: str = INDEX):
        self.folder = folder
        self.names = files
        self.problems: list[str] = []  # of the files themselves: missing shards, keys stored twice
        self.tensors: dict[str, TensorInfo] = {}
        self._open: dict[str, HashedFile] = {}
        self._stack = contextlib.ExitStack()
        try:
            for name in files:
                self._add(name)
        except BaseException:
            self._stack.close()
            raise
        for key, file in sorted((index or {}).items()):
            if key not in self.tensors and file in self._open:
                self.problems.append(f"{key} is not in {file}, where {index_name} puts it")

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def in_rows(self, key: str) -> bool:
        """Whether `read_rows` can read the tensor."""
        return self.tensors[key].strides is None

    def read_rows(self, key: str, first: int, last: int, into: np.ndarray) -> np.ndarray:
        """Rows [first, last) of the tensor's outermost axis, in the memory of `into`."""
        info = self.tensors[key]
        dtype, shape = _NUMPY[info.dtype], (last - first, *info.shape[1:])
        row, size = nbytes(info) // info.shape[0], math.prod(shape) * dtype.itemsize
        self._open[info.file].read_into(info.start + first * row, into[:size])
        return into[:size].view(dtype).reshape(shape)

    def read(self, key: str, into: np.ndarray | None = None) -> np.ndarray:
        """One tensor.

        Args:
          key: its dtype must be one of DTYPES.
          into: memory to use, bytes [N] (`nbytes` of them are needed at least); None takes new memory.
        """
        info = self.tensors[key]
        dtype, size = _NUMPY[info.dtype], nbytes(info)
        memory = (np.empty(size, np.uint8) if into is None else into)[:size]
        self._open[info.file].read_into(info.start, memory)
        array = memory.view(dtype)
        if info.strides is None:
            return array.reshape(info.shape)
        strides = [step * dtype.itemsize for step in info.strides]
        return np.lib.stride_tricks.as_strided(array, info.shape, strides)

    def sha256(self) -> Iterator[tuple[str, str]]:
        """(file name, hex digest) of every file. Bytes that were read in the order of the file are hashed already."""
        for name, file in self._open.items():
            yield name, file.sha256()

    def _add(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            self.problems.append(f"{name} is missing from the folder")
            return
        found = torch_pickle.tensors(path) if name.endswith(".bin") else _safetensors(path)
        self._open[name] = HashedFile(self._stack.enter_context(buckets.opened(path)))
        for key, (shape, dtype, start, strides) in found.items():
            if key in self.tensors:
                self.problems.append(f"{key} is in {self.tensors[key].file} and again in {name}")
                continue
            self.tensors[key] = TensorInfo(name, shape, dtype, start, strides)


def nbytes(info: TensorInfo) -> int:
    """Bytes from a tensor's first element to its last."""
    itemsize = _NUMPY[info.dtype].itemsize
    if info.strides is None or not math.prod(info.shape):
        return math.prod(info.shape) * itemsize
    return (1 + sum((size - 1) * step for size, step in zip(info.shape, info.strides, strict=True))) * itemsize


class HashedFile:
    """An open file, and the hash of its bytes from the first to where reading has come so far."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._hash = hashlib.sha256()
        self._hashed = 0

    def read_into(self, start: int, memory: np.ndarray) -> None:
        """Fills memory [N] of bytes; what lies between the bytes hashed so far and these is hashed on the way."""
        if start > self._hashed:
            self._hash_up_to(start)
        view = memoryview(memory)
        for done in range(0, len(view), _PIECE_BYTES):
            piece = view[done : done + _PIECE_BYTES]
            self._fill(start + done, piece)
            fresh = self._hashed - (start + done)
            if 0 <= fresh < len(piece):
                self._hash.update(piece[fresh:])
                self._hashed = start + done + len(piece)

    def sha256(self) -> str:
        self._hash_up_to(self._file.seek(0, os.SEEK_END))
        return self._hash.hexdigest()

    def _hash_up_to(self, end: int) -> None:
        piece = memoryview(bytearray(min(_PIECE_BYTES, end - self._hashed)))
        while self._hashed < end:
            part = piece[: end - self._hashed]
            self._fill(self._hashed, part)
            self._hash.update(part)
            self._hashed += len(part)

    def _fill(self, start: int, piece: memoryview) -> None:
        self._file.seek(start)
        while piece:
            got = self._file.readinto(piece)
            if not got:
                raise InputError(f"{self._file.name}: became shorter while it was read; convert it when it is complete")
            piece = piece[got:]


def open_tensors(folder: Path, stem: str | None = None, allow_pickle: bool = False) -> TensorFiles | None:
    """Opens the weights of a folder.

    Args:
      folder: a checkpoint. Where it has safetensors, these are read and `.bin` files are not looked at.
      stem: only the file of this name, without its ending; None if there is none.
      allow_pickle: read PyTorch's `.bin` files where there are no safetensors.

    Raises:
      InputError: no weights, only `.bin` files without `allow_pickle`, or a broken file or index.
    """
    if stem is not None:
        found = [name for name in (f"{stem}.safetensors", f"{stem}.bin") if (folder / name).is_file()]
        if not found:
            return None
        return TensorFiles(folder, [_permitted(folder, found[0], allow_pickle)])
    for index_name, single in ((INDEX, SINGLE), (PICKLE_INDEX, PICKLE)):
        if (folder / index_name).is_file():
            index = _read_index(folder / index_name)
            names = [_permitted(folder, name, allow_pickle) for name in sorted(set(index.values()))]
            return TensorFiles(folder, names, index, index_name)
        if (folder / single).is_file():
            return TensorFiles(folder, [_permitted(folder, single, allow_pickle)])
        others = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_model"))
        if single == SINGLE and len(others) == 1:
            return TensorFiles(folder, others)
        if single == SINGLE and others:
            raise InputError(f"{folder}: {len(others)} safetensors files but no {INDEX}; add the index file")
    if list(folder.glob("adapter_model.*")):
        raise InputError(f"{folder}: a LoRA adapter, not a model; give it as --lora, and its base model as --source")
    if list(folder.glob("pytorch_model-*.bin")):
        raise InputError(f"{folder}: pytorch_model-*.bin files but no {PICKLE_INDEX}; add the index file")
    raise InputError(f"{folder}: no {SINGLE} or {INDEX}; is this a Hugging Face model folder?")


def opener(
    stack: contextlib.ExitStack, open_files: Callable[..., Any] = open_tensors
) -> Callable[[Path, str], Any | None]:
    """What opens one file of a folder by its name without ending, None if it is not there; `stack` closes it.

    open_files: opens the weights of a folder, as `open_tensors`.
    """

    def open_one(where: Path, stem: str) -> Any | None:
        files = open_files(where, stem=stem)
        return None if files is None else stack.enter_context(files)

    return open_one


def _permitted(folder: Path, name: str, allow_pickle: bool) -> str:
    if name.endswith(".bin") and not allow_pickle:
        raise InputError(
            f"{folder}: only PyTorch .bin weights; they are pickles, which --allow_pickle reads (tensors only, no code)"
        )
    return name


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(v, str) and v == Path(v).name for v in index.values()):
        raise InputError(f"{path}: weight_map is no table from tensor to file; download it again")
    return index


def _safetensors(path: Path) -> dict[str, tuple[tuple[int, ...], str, int, Any]]:
    """key -> (shape, dtype, first byte, None). The library checks the header where the file is here."""
    import safetensors

    try:
        with buckets.opened(path) as file:
            if isinstance(file, FileIO):
                safetensors.safe_open(path, framework="numpy")
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _HEADER_BYTES)))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            if 8 + size + max(ends, default=0) != file.seek(0, os.SEEK_END):
                raise OSError("its length is not what its header says")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        what = f"not a readable safetensors file ({error})"
        raise InputError(f"{path}: {what}; it may be cut short, download it again") from error
    return {
        key: (tuple(entry["shape"]), entry["dtype"], 8 + size + entry["data_offsets"][0], None)
        for key, entry in header.items()
        if key != "__metadata__"
    }
