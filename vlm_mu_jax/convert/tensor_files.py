"""The safetensors files of one checkpoint folder: which tensor is where, and reading one at a time."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model_folder import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Header of one tensor. dtype as safetensors spells it ("BF16")."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class TensorFiles:
    """All tensors of a folder. Opening reads headers only; `read` copies one tensor into memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[str] = []  # of the files themselves: missing shards, keys stored twice
        self.names, mapped = _file_names(folder)
        self.tensors: dict[str, TensorInfo] = {}
        self._open: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        try:
            for name in self.names:
                self._add(name)
        except BaseException:
            self._stack.close()
            raise
        for key in sorted(mapped.keys() - self.tensors.keys()):
            if mapped[key] in self._open:
                self.problems.append(f"{key} is not in {mapped[key]}, where {INDEX} puts it")

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, key: str) -> np.ndarray:
        return self._open[self.tensors[key].file].get_tensor(key)

    def sha256(self) -> Iterator[tuple[str, str]]:
        """(file name, hex digest) of every file, one after the other: each takes seconds for a large model."""
        for name in self.names:
            with open(self.folder / name, "rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()

    def _add(self, name: str) -> None:
        import safetensors

        path = self.folder / name
        if not path.is_file():
            self.problems.append(f"{name} is missing from the folder")
            return
        try:
            file = self._stack.enter_context(safetensors.safe_open(path, framework="numpy"))
        except (safetensors.SafetensorError, OSError) as error:
            what = f"not a readable safetensors file ({error})"
            raise InputError(f"{path}: {what}; it may be cut short, download it again") from error
        self._open[name] = file
        for key in file.keys():
            if key in self.tensors:
                self.problems.append(f"{key} is in {self.tensors[key].file} and again in {name}")
                continue
            view = file.get_slice(key)
            self.tensors[key] = TensorInfo(name, tuple(view.get_shape()), view.get_dtype())


def _file_names(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The files to read, and the index's key -> file map (empty without an index)."""
    if (folder / INDEX).is_file():
        mapped = read_json(folder / INDEX).get("weight_map")
        if not isinstance(mapped, dict) or not all(isinstance(v, str) and v == Path(v).name for v in mapped.values()):
            raise InputError(f"{folder / INDEX}: weight_map is no table from tensor to file; download it again")
        return sorted(set(mapped.values())), mapped
    if (folder / SINGLE).is_file():
        return [SINGLE], {}
    if (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: holds a LoRA adapter, not a model; merge it into its base model first")
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(others) == 1:
        return others, {}
    if others:
        raise InputError(f"{folder}: {len(others)} safetensors files but no {INDEX}; add the index file")
    if list(folder.glob("pytorch_model*.bin")):
        raise InputError(f"{folder}: only PyTorch .bin weights; save them as safetensors (as save_pretrained does)")
    raise InputError(f"{folder}: no {SINGLE} or {INDEX}; is this a Hugging Face model folder?")
