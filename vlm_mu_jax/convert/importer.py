"""Hugging Face safetensors -> our parameter tree, without torch.

Headers are checked first and every problem is reported at once; then tensors are read one by one into preallocated
stacked arrays, so that the peak memory is the model plus one tensor. Values are moved, never computed (unless a
dtype is asked for), which makes export the exact inverse.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_mu_jax.convert import names
from vlm_mu_jax.convert.tensor_files import DTYPES, TensorFiles
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import llava
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model_folder import COMPANION_FILES, package_versions, read_json

Progress = Callable[[Iterable, str, int | None], Iterable]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NUMPY = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint in memory. params: nested dict of numpy arrays; dtype: of all of them, or "mixed"."""

    params: params_lib.Params
    config: config_lib.LlavaConfig
    hf_config: dict[str, Any]
    folder: Path
    dialect: str
    dtype: str
    provenance: dict[str, Any]


def import_checkpoint(source: str | Path, dtype: str | None = None, progress: Progress | None = None) -> Imported:
    """Reads a Hugging Face checkpoint.

    Args:
      source: a local folder, or a hub id such as "llava-hf/llava-1.5-7b-hf" (downloaded into the hub cache).
      dtype: None keeps the dtype of every tensor; "float32", "bfloat16" or "float16" casts all of them.
      progress: `progress(iterable, label, total)`, shown over tensors and files.

    Raises:
      InputError: a file is missing or broken, or the tensors are not exactly those that config.json calls for.
    """
    if dtype is not None and dtype not in _NUMPY:
        raise InputError(f"--dtype={dtype}: not known; use one of {', '.join(_NUMPY)}")
    progress = progress or (lambda items, label, total: items)
    folder = locate(source)
    hf_config = read_json(folder / "config.json")
    cfg = config_lib.from_hf(hf_config, str(folder / "config.json"))
    specs = llava.param_specs(cfg)
    with TensorFiles(folder) as files:
        dialect = names.find_dialect(files.tensors.keys(), specs, str(folder))
        slots = list(names.slots(specs, dialect))
        dtypes = _check(files, slots, specs, dialect, dtype)
        flat = _read(files, slots, specs, dtypes, progress)
        digests = dict(progress(files.sha256(), "hashing source files", len(files.names)))
    kinds = {str(kind) for kind in dtypes.values()}
    provenance = {
        "source": str(source),
        "sha256": digests,
        "dialect": dialect.name,
        "cast_to": dtype,
        "packages": package_versions(),
    }
    kept = kinds.pop() if len(kinds) == 1 else "mixed"
    return Imported(params_lib.unflatten(flat), cfg, hf_config, folder, dialect.name, kept, provenance)


def locate(source: str | Path) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded (weights as safetensors only).

    Raises:
      InputError: neither a folder nor a hub id that can be fetched.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{source}: is a file; give the folder that holds it")
    if not _HUB_ID.fullmatch(str(source)) or str(source).startswith("."):
        raise InputError(f"{source}: no such folder; give one, or a hub id such as llava-hf/llava-1.5-7b-hf")
    import huggingface_hub

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", *COMPANION_FILES]
    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:  # unrelated types for "not found", "no network", "no access"
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: no such local folder, and it cannot be fetched from the Hugging Face hub"
            f" ({type(error).__name__}: {reason}); check the name, or download it and give the folder"
        ) from error


def _check(
    files: TensorFiles,
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


def _check_unused(files: TensorFiles, wanted: set[str], specs: params_lib.Specs, dialect: names.Dialect) -> list[str]:
    """Tensors that no parameter uses. A tied model may carry its head again, if it is the embedding indeed."""
    head, embedding = dialect.head + "weight", dialect.text + "embed_tokens.weight"
    tied = "head_DV" not in specs["decoder"]
    problems = []
    for key in sorted(files.tensors.keys() - wanted):
        if names.is_ignored(key):
            continue
        if tied and key == head and embedding in files.tensors:
            if not _same_bytes(files, head, embedding):
                problems.append(f"{head} differs from {embedding}, but config.json ties them (tie_word_embeddings)")
            continue
        problems.append(f"{key} is not used by this kind of model")
    return problems


def _same_bytes(files: TensorFiles, one: str, other: str) -> bool:
    a, b = files.tensors[one], files.tensors[other]
    if a.dtype not in DTYPES or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return files.read(one).tobytes() == files.read(other).tobytes()


def _read(
    files: TensorFiles,
    slots: list[names.Slot],
    specs: params_lib.Specs,
    dtypes: dict[str, np.dtype],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Fills every parameter, tensor by tensor."""
    shapes = params_lib.flatten(specs)
    flat = {path: np.empty(shapes[path].shape, dtypes[path]) for path in dtypes}
    for slot in progress(slots, "reading tensors", len(slots)):
        flat[slot.path][slot.index()] = slot.layout.to_ours(files.read(slot.key), slot.shape)
    return flat
