"""A GGUF file (ggml-org/ggml docs/gguf.md): its metadata, and its tensors as `Tensors` of the Hugging Face spelling.

The `gguf` library reads the header and dequantises. Quantised tensors become float32; float32, float16 and bfloat16
ones stay as they are. A file may come from anywhere, so every count in the header is checked against the file's size
before anything is allocated by it.
"""

import contextlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_mu_jax.conversion.tensor_files import HashedFile, TensorInfo, nbytes
from vlm_mu_jax.errors import InputError

SUFFIX = ".gguf"
_MOST_FIELDS = 100_000  # entries of the metadata, tensors
_MOST_ITEMS = 4_000_000  # of one array in the metadata: larger than any vocabulary or list of merges
_PANEL_BYTES = 4 * 2**20  # float32 that is dequantised at a time
_PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}

Undo = Callable[[np.ndarray], np.ndarray]


class GgufFile:
    """Header of a GGUF file.

    Attributes:
      path: the file.
      metadata: key -> number, text or list.
      shapes: name of every tensor -> its shape, outermost axis first.

    Raises:
      InputError: it is no GGUF file, or a damaged one.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            _check_counts(path)
            reader = _reader(path)
            self.metadata: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        except OSError:
            raise
        except Exception as error:  # damaged files make the library raise anything
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: no readable GGUF file ({reason}); download it again") from error
        self.shapes = {name: tuple(int(n) for n in t.shape[::-1]) for name, t in self._tensors.items()}

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of the metadata.

        Raises:
          InputError: it is missing and there is no default, or it is not of this type.
        """
        value = self.metadata.get(key, default)
        if value is None or not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise InputError(f"{self.path}: metadata {key} is {_brief(value)}, which makes no sense; use another file")
        return value

    def read(self, name: str) -> np.ndarray:
        """One small tensor, dequantised."""
        with open(self.path, "rb", buffering=0) as file:
            info = self.info(name)
            return self.read_from(HashedFile(file), name, np.empty(nbytes(info), np.uint8))

    def info(self, name: str) -> TensorInfo:
        """What a tensor is once it has been read."""
        tensor = self._tensors[name]
        kind = tensor.tensor_type.name
        return TensorInfo(self.path.name, self.shapes[name], kind if kind in _PLAIN else "F32", int(tensor.data_offset))

    def read_from(
        self, file: HashedFile, name: str, memory: np.ndarray, rows: tuple[int, int] | None = None
    ) -> np.ndarray:
        """A tensor, or rows [first, last) of its outermost axis, in `memory`, bytes [N] that suffice."""
        import gguf

        tensor, info = self._tensors[name], self.info(name)
        kind, whole = tensor.tensor_type, info.shape
        first, last = rows or (0, whole[0] if whole else 1)
        shape = (last - first, *whole[1:]) if rows else whole
        dtype = _PLAIN.get(kind.name, np.dtype(np.float32))
        memory = memory[: math.prod(shape) * dtype.itemsize]
        start = info.start + int(tensor.n_bytes) // (whole[0] if whole else 1) * first
        if kind.name in _PLAIN:
            file.read_into(start, memory)
            return memory.view(dtype).reshape(shape)
        array = memory.view(np.float32).reshape(-1, shape[-1])
        row_bytes = int(tensor.n_bytes) // (math.prod(whole) // whole[-1])
        step = max(1, _PANEL_BYTES // (4 * shape[-1]))
        for at in range(0, len(array), step):
            some = array[at : at + step]
            stored = np.empty((len(some), row_bytes), np.uint8)
            file.read_into(start + at * row_bytes, stored.reshape(-1))
            some[:] = gguf.quants.dequantize(stored, kind)
        return array.reshape(shape)


class GgufTensors:
    """A GGUF file's tensors under other names; see `overlay.Tensors`.

    Args:
      file: the file.
      names: name in the file -> key of the Hugging Face checkpoint.
      undo: key -> what takes back llama.cpp's change of that tensor.
    """

    def __init__(self, file: GgufFile, names: Mapping[str, str], undo: Mapping[str, Undo]):
        self.folder, self.names = file.path.parent, [file.path.name]
        self._gguf, self._undo = file, undo
        self._names = {key: name for name, key in names.items()}
        self.problems = [f"{name} is not used by this kind of model" for name in file.shapes.keys() - names.keys()]
        self.tensors = {key: file.info(name) for key, name in self._names.items()}
        self._stack = contextlib.ExitStack()
        self._file = HashedFile(self._stack.enter_context(open(file.path, "rb", buffering=0)))

    def __enter__(self) -> "GgufTensors":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, key: str, into: np.ndarray | None = None) -> np.ndarray:
        """One tensor; `into` is memory that may be used, see `TensorFiles.read`."""
        size = nbytes(self.tensors[key])
        array = self._gguf.read_from(self._file, self._names[key], np.empty(size, np.uint8) if into is None else into)
        return self._undo[key](array) if key in self._undo else array

    def in_rows(self, key: str) -> bool:
        """Whether `read_rows` can read the tensor."""
        return key not in self._undo

    def read_rows(self, key: str, first: int, last: int, into: np.ndarray) -> np.ndarray:
        """See `TensorFiles.read_rows`."""
        return self._gguf.read_from(self._file, self._names[key], into, (first, last))

    def sha256(self) -> Iterator[tuple[str, str]]:
        yield self.names[0], self._file.sha256()


def _check_counts(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ValueError("it does not begin as one")
    _, tensors, fields = struct.unpack("<IQQ", head[4:])
    if max(tensors, fields) > _MOST_FIELDS:
        raise ValueError(f"it claims {tensors} tensors and {fields} metadata entries")


def _reader(path: Path) -> Any:
    import gguf

    class Bounded(gguf.GGUFReader):
        """The library's reader, which itself takes what lies behind the end of the file for empty. It keeps a slice of
        its memory map for every token of a vocabulary, and such a slice takes several times the memory of an array."""

        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = np.asarray(mapped)

        def _get(self, offset: int, dtype: Any, count: Any = 1, *others: Any, **named: Any) -> np.ndarray:
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it is cut short, or a size in it is wrong")
            return super()._get(offset, dtype, count, *others, **named)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == gguf.GGUFValueType.ARRAY:
                items = int(self._get(orig_offs + 4, np.uint64)[0])
                if items > _MOST_ITEMS:
                    raise ValueError(f"a list in it claims {items} items")
            return super()._get_field_parts(orig_offs, raw_type)

    return Bounded(path)


def _brief(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.60}"
