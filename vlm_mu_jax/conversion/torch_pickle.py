"""PyTorch's `.bin` files: where their tensors are, without PyTorch and without running anything from the file.

`torch.save` (1.6 and later) writes a zip archive: `data.pkl`, a pickle of the dictionary in which a tensor is a call of
`_rebuild_tensor_v2` on a numbered storage, and the storages themselves as uncompressed members `data/0`, `data/1`, ...
(pytorch/pytorch@torch/serialization.py). A pickle can call anything that can be imported; the one here may call what a
plain dictionary of tensors needs, and nothing else. What it calls only notes positions; no tensor is built.
"""

import collections
import dataclasses
import pickle
import zipfile
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

_DTYPES = {
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
_PICKLE_BYTES = 64 * 2**20  # the pickle holds names and shapes only: a few hundred bytes per tensor
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name

Entry = tuple[tuple[int, ...], str, int, tuple[int, ...] | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str
    itemsize: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """A storage in the file: its first byte and its length in elements."""

    start: int
    size: int
    type: _StorageType


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    entry: Entry


class _Refused(Exception):
    """The pickle wants something that no dictionary of tensors needs."""


def tensors(path: Path) -> dict[str, Entry]:
    """key -> (shape, dtype in the words of safetensors, first byte in the file, strides or None if contiguous).

    Raises:
      InputError: not such a file, damaged, or a pickle that does more than list tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            return _read(archive, file)
    except _Refused as error:
        raise InputError(f"{path}: refused: {error}; do not load this file with other programs either") from error
    except zipfile.BadZipFile as error:
        what = "no zip archive: cut short, or written by a PyTorch before 1.6"
        raise InputError(f"{path}: {what}; download it again, or save it again with a newer PyTorch") from error
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not readable ({type(error).__name__}: {reason}); download it again") from error


def _read(archive: zipfile.ZipFile, file: Any) -> dict[str, Entry]:
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} members data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if members[pickles[0]].file_size > _PICKLE_BYTES:
        raise ValueError(f"data.pkl has {members[pickles[0]].file_size} bytes, too many for a list of tensors")
    order = members.get(f"{prefix}byteorder")
    if order is not None and (order.file_size > 16 or archive.read(order) != b"little"):
        raise ValueError("its numbers are not little-endian")
    with archive.open(pickles[0]) as content:
        found = _Unpickler(content, file, members, prefix).load()
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__}, not a dictionary of tensors")
    strange = [key for key, value in found.items() if not (isinstance(key, str) and isinstance(value, _Tensor))]
    if strange:
        raise ValueError(f"{strange[0]!r} is no tensor; a checkpoint of weights alone is needed")
    return {key: value.entry for key, value in found.items()}


class _Unpickler(pickle._Unpickler):
    """Runs a pickle in which only `_ALLOWED` can be named.

    It is the library's unpickler in Python. The one in C allocates its memo by the largest index that a pickle names,
    gigabytes for a pickle of a few bytes.
    """

    def __init__(self, content: Any, file: Any, members: dict[str, zipfile.ZipInfo], prefix: str):
        super().__init__(content)
        self._file, self._members, self._prefix = file, members, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _StorageType(*_DTYPES[name])
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise _Refused(f"it names {ascii(f'{module}.{name}'[:80])}, which weights have no use for")
        return allowed

    def persistent_load(self, reference: Any) -> _Storage:
        kind, storage_type, name, _device, size = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(name, str):
            raise ValueError(f"reference to a {kind!r}")
        member = self._members[f"{self._prefix}data/{name}"]
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member.filename} is compressed")
        if not 0 <= _natural(size) * storage_type.itemsize <= member.file_size:
            raise ValueError(f"{member.filename} is shorter than it says")
        return _Storage(self._start(member), size, storage_type)

    def _start(self, member: zipfile.ZipInfo) -> int:
        """First byte of an uncompressed member."""
        self._file.seek(member.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        if header[:4] != b"PK\x03\x04":
            raise ValueError(f"{member.filename} is not where the archive says")
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return member.header_offset + _LOCAL_HEADER + name + extra


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """torch._utils._rebuild_tensor_v2: notes where the tensor is, once it is sure that it lies within its storage."""
    shape, strides = (tuple(_natural(n) for n in numbers) for numbers in (shape, strides))
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage, or whose shape and strides differ in length")
    empty = 0 in shape
    end = _natural(offset) + (0 if empty else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))
    if end > storage.size:
        raise ValueError(f"a tensor reaches to element {end} of a storage of {storage.size}")
    contiguous, step = True, 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        contiguous &= size == 1 or stride == step
        step *= size
    start = storage.start + offset * storage.type.itemsize
    return _Tensor((shape, storage.type.dtype, start, None if contiguous or empty else strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter: a tensor that was trained."""
    return tensor


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a size is needed")
    return value


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
