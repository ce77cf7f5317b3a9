"""A checkpoint of any layout -> our parameters, in memory or as a model folder, without torch.

Headers are checked first and every problem is reported at once; then tensors are read one by one in the order of the
files, so that a conversion to a folder holds a few tensors at a time, whatever the size of the model. Values are moved,
never computed (unless a dtype is asked for or an adapter merged), which makes export the exact inverse.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_mu_jax.conversion import names, stream
from vlm_mu_jax.conversion.overlay import Tensors
from vlm_mu_jax.conversion.source import Source, open_source
from vlm_mu_jax.conversion.template import Wanted, choose_template
from vlm_mu_jax.conversion.tensor_files import DTYPES, open_tensors
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import check_replaceable, complete_folder
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import stored_params
from vlm_mu_jax.storage.model_folder import (
    COMPANION_FILES,
    PARAMS,
    SETTINGS,
    copy_companions,
    has_tokenizer,
    package_versions,
    write_facts,
)

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


@dataclasses.dataclass(frozen=True)
class Converted:
    """A checkpoint as a model folder. parameters: how many numbers; dtype: of all of them, or "mixed"."""

    folder: Path
    parameters: int
    dtype: str
    template: str
    dialect: str
    has_tokenizer: bool


def import_checkpoint(
    source: str | Path,
    dtype: str | None = None,
    progress: Progress | None = None,
    *,
    allow_pickle: bool = False,
    vision_tower: str | Path | None = None,
    lora: str | Path | None = None,
) -> Imported:
    """Reads a checkpoint into memory.

    Args:
      source: a local folder, or a hub id such as "llava-hf/llava-1.5-7b-hf" (downloaded into the hub cache).
      dtype: None keeps the dtype of every tensor; "float32", "bfloat16" or "float16" casts all of them.
      progress: `progress(iterable, label, total)`, shown over tensors.
      allow_pickle: read PyTorch's .bin files where there are no safetensors; only tensors can come out of them.
      vision_tower: CLIP checkpoint of an original LLaVA that has none inside; as `source`.
      lora: PEFT adapter to merge; as `source`.

    Raises:
      InputError: a file is missing or broken, or the tensors are not exactly those that config.json calls for.
    """
    with _opened(source, dtype, allow_pickle, vision_tower, lora) as job:
        specs = params_lib.flatten(job.source.specs)
        flat = {path: np.empty(specs[path].shape, kind) for path, kind in job.dtypes.items()}

        def put(path: str, layer: int | None, array: np.ndarray) -> None:
            stream.copy(flat[path] if layer is None else flat[path][layer], array)

        stream.import_tensors(job.source.files, job.slots, job.dtypes, put, progress or _silent)
        found = job.source
        return Imported(
            params_lib.unflatten(flat),
            found.config,
            found.hf_config,
            found.folder,
            found.dialect.name,
            job.dtype,
            job.provenance(),
        )


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    template: str | Wanted = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
    *,
    allow_pickle: bool = False,
    vision_tower: str | Path | None = None,
    lora: str | Path | None = None,
) -> Converted:
    """Writes a checkpoint as a model folder of ours, holding a few tensors at a time.

    Args:
      out: the folder, which appears when it is complete; an earlier model folder there is replaced.
      template: "auto" takes the checkpoint's own chat template, or what its kind is known to have. A name of
        `data.chat_template.TEMPLATES` takes that one. `Wanted` can also give a file and a system text.
      others: as for `import_checkpoint`.

    Raises:
      InputError: as `import_checkpoint`, or `out` is somebody else's.
    """
    check_replaceable(out, SETTINGS)
    with _opened(source, dtype, allow_pickle, vision_tower, lora) as job:
        found = job.source
        wanted = Wanted(template) if isinstance(template, str) else template
        called = [str(where) for where in job.given.values() if where]
        chosen = choose_template(found.folder, wanted, found.hf_config, found.dialect.name, called)
        with complete_folder(out, marker=SETTINGS) as folder:
            with found.companions() as companions:
                copy_companions(companions, folder)
            chosen.write(folder)
            with stored_params.Writer(folder / PARAMS, found.specs, job.dtypes) as writer:
                stream.import_tensors(found.files, job.slots, job.dtypes, writer.write, progress or _silent)
            origin = {**job.provenance(), "chat_template": chosen.facts()}
            dialect = found.dialect.name
            write_facts(
                folder, found.hf_config, job.dtypes.values(), chosen.name, dialect, origin, system=chosen.system
            )
            tokenizer = has_tokenizer(folder)
    parameters = sum(math.prod(spec.shape) for spec in params_lib.flatten(found.specs).values())
    return Converted(Path(out), parameters, job.dtype, chosen.name, found.dialect.name, tokenizer)


@dataclasses.dataclass(frozen=True)
class _Job:
    """An opened source whose tensors are all there and fit. given: what the caller asked for, for the provenance."""

    source: Source
    slots: list[names.Slot]
    dtypes: dict[str, np.dtype]
    given: dict[str, str | None]

    @property
    def dtype(self) -> str:
        kinds = {str(kind) for kind in self.dtypes.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def provenance(self) -> dict[str, Any]:
        """Where the weights come from. The files are hashed while they are read: ask when they have been."""
        return {
            **self.given,
            "sha256": dict(self.source.files.sha256()),
            "dialect": self.source.dialect.name,
            "packages": package_versions(),
        }


@contextlib.contextmanager
def _opened(
    source: str | Path, dtype: str | None, allow_pickle: bool, vision_tower: str | Path | None, lora: str | Path | None
) -> Iterator[_Job]:
    if dtype is not None and dtype not in _NUMPY:
        raise InputError(f"--dtype={dtype}: not known; use one of {', '.join(_NUMPY)}")
    given = {"source": source, "vision_tower": vision_tower, "lora": lora}
    given = {name: str(where) for name, where in given.items() if where is not None}
    folders = {name: locate(where, allow_pickle) for name, where in given.items()}
    opening = open_source(
        folders["source"],
        partial(open_tensors, allow_pickle=allow_pickle),
        folders.get("vision_tower"),
        folders.get("lora"),
    )
    with opening as found:
        slots = list(names.slots(found.specs, found.dialect))
        dtypes = _check(found.files, slots, found.specs, found.dialect, dtype)
        yield _Job(found, slots, dtypes, given | {"cast_to": dtype})


def _silent(items: Iterable, label: str, total: int | None) -> Iterable:
    return items


def locate(source: str | Path, allow_pickle: bool = False) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded (weights as safetensors, if it has them).

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

    others = ["config.json", "adapter_config.json", "non_lora_trainables.bin", *COMPANION_FILES]
    try:
        fetch = partial(huggingface_hub.snapshot_download, str(source))
        found = Path(fetch(allow_patterns=[*others, "*.safetensors", "*.safetensors.index.json"]))
        if allow_pickle and not list(found.glob("*.safetensors")):
            found = Path(fetch(allow_patterns=[*others, "*.bin", "*.bin.index.json"]))
        return found
    except Exception as error:  # unrelated types for "not found", "no network", "no access"
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: no such local folder, and it cannot be fetched from the Hugging Face hub"
            f" ({type(error).__name__}: {reason}); check the name, or download it and give the folder"
        ) from error


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


def _same_bytes(files: Tensors, one: str, other: str) -> bool:
    a, b = files.tensors[one], files.tensors[other]
    if a.dtype not in DTYPES or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return files.read(one).tobytes() == files.read(other).tobytes()
