"""Reads a checkpoint of any layout into our parameters, without PyTorch.

The headers of the files are checked first, and every problem is reported at once. Tensors are then read one by one in
the order of the files, so that a conversion holds a few tensors at a time, whatever the size of the model. Values are
moved and never computed, unless a dtype is asked for, an adapter is merged or the source is quantised. That makes the
export the exact inverse.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_mu_jax.conversion import names, stream
from vlm_mu_jax.conversion.locate import locate
from vlm_mu_jax.conversion.overlay import Tensors, same_tensor
from vlm_mu_jax.conversion.source import Source, open_source
from vlm_mu_jax.conversion.tensor_files import DTYPES, open_tensors
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import package_versions

_NUMPY = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint in memory. params: nested dict of numpy arrays; dtype: of all of them, or "mixed"."""

    params: params_lib.Params
    config: config_lib.ModelConfig
    hf_config: dict[str, Any]
    folder: Path
    dialect: str
    dtype: str
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """How a checkpoint is read.

    template: the chat template. "auto" takes the checkpoint's own, or what its kind is known to have; a name of
      `data.chat_template.TEMPLATES` takes that one.
    chat_template: a jinja file to take as the chat template instead.
    system: the system text of prompts, in place of the template's own.
    dtype: "float32", "bfloat16" or "float16" casts every tensor; None keeps each as it is stored.
    allow_pickle: read PyTorch's .bin files where there are no safetensors. Only tensors can come out of them.
    vision_tower: the CLIP checkpoint of an original LLaVA that has no vision tower inside (folder or hub id).
    lora: a PEFT LoRA adapter to merge (folder or hub id).
    overwrite: replace whatever is in the output folder, even a trained model.
    """

    template: str = "auto"
    chat_template: str | Path | None = None
    system: str | None = None
    dtype: str | None = None
    allow_pickle: bool = False
    vision_tower: str | Path | None = None
    lora: str | Path | None = None
    overwrite: bool = False


def import_checkpoint(
    source: str | Path, options: ConvertOptions | None = None, progress: Progress | None = None
) -> Imported:
    """Reads a checkpoint into memory.

    Args:
      source: a local folder, a GGUF file, or a hub id such as "llava-hf/llava-1.5-7b-hf"; see `locate.locate`.
      options: how it is read. The template and `overwrite` do not matter here.
      progress: shown over tensors; None is silent.

    Raises:
      InputError: a file is missing or broken, or the tensors are not exactly those that config.json calls for.

    Example:
      found = import_checkpoint("llava-hf/llava-1.5-7b-hf", ConvertOptions(dtype="bfloat16"))
      found.params["decoder"]["embed_VD"].shape  # (32064, 4096)
    """
    with opened(source, options or ConvertOptions()) as job:
        specs = params_lib.flatten(job.source.specs)
        flat = {path: np.empty(specs[path].shape, kind) for path, kind in job.dtypes.items()}

        def put(path: str, layer: int | None, array: np.ndarray) -> None:
            stream.copy(flat[path] if layer is None else flat[path][layer], array)

        def put_rows(slot: names.Slot, first: int, rows: np.ndarray) -> None:
            out = flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer]
            stream.copy_rows(out, slot, first, rows)

        job.read(put, progress, put_rows)
        found = job.source
        return Imported(
            params_lib.unflatten(flat),
            found.config,
            found.hf_config,
            found.folder if found.folder.exists() else found.files.folder,
            found.dialect.name,
            job.dtype,
            job.provenance(),
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """An opened source whose tensors are all there and fit.

    slots: the tensors to read. dtypes: path -> dtype of every parameter. folders: what is read, by the option's name.
    given: what the caller asked for, for the provenance.
    """

    source: Source
    slots: list[names.Slot]
    dtypes: dict[str, np.dtype]
    given: dict[str, str | None]

    @property
    def dtype(self) -> str:
        kinds = {str(kind) for kind in self.dtypes.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(math.prod(spec.shape) for spec in params_lib.flatten(self.source.specs).values())

    def read(
        self,
        put: Callable[[str, int | None, np.ndarray], None],
        progress: Progress | None,
        put_rows: stream.PutRows | None = None,
    ) -> None:
        """Hands every tensor to `put(path, layer, array)`, or in parts; see `stream.import_tensors`."""
        stream.import_tensors(self.source.files, self.slots, self.dtypes, put, progress or _silent, put_rows)

    def provenance(self) -> dict[str, Any]:
        """Where the weights come from. Call it after `read`: files are hashed while they are read."""
        return {
            **self.given,
            "sha256": dict(self.source.files.sha256()),
            "dialect": self.source.dialect.name,
            "packages": package_versions(),
        }


def sources(source: str | Path, options: ConvertOptions) -> dict[str, Path]:
    """The local folders that a conversion reads, by the option's name; hub ids are downloaded."""
    given = {"source": source, "vision_tower": options.vision_tower, "lora": options.lora}
    return {name: locate(where, options.allow_pickle) for name, where in given.items() if where is not None}


@contextlib.contextmanager
def opened(source: str | Path, options: ConvertOptions, folders: Mapping[str, Path] | None = None) -> Iterator[Job]:
    """Opens a checkpoint and checks its headers against its config.

    Args:
      folders: the result of `sources`, if it is known already.
    """
    dtype = options.dtype
    if dtype is not None and dtype not in _NUMPY:
        raise InputError(f"--dtype={dtype}: not known; use one of {', '.join(_NUMPY)}")
    folders = folders or sources(source, options)
    given = {"source": source, "vision_tower": options.vision_tower, "lora": options.lora}
    opening = open_source(
        folders["source"],
        partial(open_tensors, allow_pickle=options.allow_pickle),
        folders.get("vision_tower"),
        folders.get("lora"),
    )
    with opening as found:
        slots = list(names.slots(found.specs, found.dialect))
        dtypes = _check(found.files, slots, found.specs, found.dialect, dtype)
        told = {name: str(where) for name, where in given.items() if where is not None}
        yield Job(found, slots, dtypes, told | {"cast_to": dtype})


def _silent(items: Iterable, label: str, total: int | None) -> Iterable:
    return items


def _check(
    files: Tensors,
    slots: list[names.Slot],
    specs: params_lib.Specs,
    dialect: names.Dialect,
    dtype: str | None,
) -> dict[str, np.dtype]:
    """Compares the headers with what the config calls for; returns the dtype of every parameter.

    Raises:
      InputError: all problems at once.
    """
    problems = list(files.problems)
    wanted = {slot.key for slot in slots}
    stored: dict[str, set[str]] = {}
    for slot in slots:
        info = files.tensors.get(slot.key)
        if info is None:
            problems.append(f"{slot.key} is missing")
            continue
        if info.shape != slot.file_shape:
            problems.append(f"{slot.key} has shape {list(info.shape)}, config.json calls for {list(slot.file_shape)}")
        if info.dtype not in DTYPES:
            problems.append(f"{slot.key} has dtype {info.dtype}; only {', '.join(DTYPES)} can be converted")
        stored.setdefault(slot.path, set()).add(info.dtype)
    problems += _check_unused(files, wanted, specs, dialect)
    for path, kinds in stored.items():
        if len(kinds) > 1 and dtype is None and kinds <= DTYPES.keys():
            problems.append(f"{path}: its layers have dtypes {', '.join(sorted(kinds))}; choose one with --dtype")
    if problems:
        plural = "problem" if len(problems) == 1 else "problems"
        head = f"{files.folder}: the tensors do not fit config.json ({len(problems)} {plural}); use the matching files:"
        raise InputError(head + "\n  " + ";\n  ".join(problems))
    return {path: _NUMPY[dtype or DTYPES[kinds.pop()]] for path, kinds in stored.items()}


def _check_unused(files: Tensors, wanted: set[str], specs: params_lib.Specs, dialect: names.Dialect) -> list[str]:
    """Tensors that no parameter uses. A tied model may carry its head again, if it is the embedding indeed."""
    head, embedding = names.head(dialect), names.embedding(dialect)
    tied = "head_DV" not in specs["decoder"]
    problems = []
    for key in sorted(files.tensors.keys() - wanted):
        if names.is_ignored(key):
            continue
        if tied and key == head and embedding in files.tensors:
            if not same_tensor(files, head, embedding):
                problems.append(f"{head} differs from {embedding}, but config.json ties them (tie_word_embeddings)")
            continue
        problems.append(f"{key} is not used by this kind of model")
    return problems
