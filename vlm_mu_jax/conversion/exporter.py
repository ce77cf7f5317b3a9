"""Our parameters -> a Hugging Face folder that `transformers` loads.

The exact inverse of the importer: the same table, the same spelling of the keys as the source had, the same bits.
Tensors are read and written one by one, so that a few of them are in memory at a time.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.conversion import names, original, original_files, stream
from vlm_mu_jax.conversion.tensor_files import DTYPES, INDEX, SINGLE
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.direct_file import DirectFile
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import llava
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder, stored_params

SHARD_BYTES = 5 * 10**9  # as save_pretrained's default has been for years
MARKER = "vlm_mu_jax_export.json"  # says where an exported folder comes from; lets a second export replace it


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    dialect: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Writes a model folder of ours as a Hugging Face checkpoint.

    Args:
      source: our model folder, or the workdir of a training run.
      out: the folder to write; an earlier export there is replaced.
      dialect: spelling of the keys (`names.DIALECTS`); None = that of the checkpoint the weights once came from.
      shard_bytes: largest size of one file (a single larger tensor gets its own).
      progress: `progress(iterable, label, total)`, shown over tensors.

    Raises:
      InputError: `source` is no model folder of ours or is damaged, or `out` is somebody else's.
    """
    folder = model_folder.find(source)
    settings = model_folder.read_settings(folder)
    hf_config = read_json(folder / "config.json")
    specs = llava.param_specs(config_lib.from_hf(hf_config, str(folder / "config.json")))
    stored = stored_params.Reader(folder / model_folder.PARAMS)
    params_lib.check_params(params_lib.unflatten(stored.arrays), specs, str(folder))
    dtypes = {path: np.dtype(array.dtype) for path, array in stored.arrays.items()}
    about = {"source": str(source), "provenance": read_json(folder / "provenance.json")}
    return _write(
        out,
        stored.read,
        dtypes,
        hf_config,
        specs,
        _dialect(dialect or settings["dialect"], specs),
        folder,
        about,
        shard_bytes,
        progress,
    )


def export_params(
    out: str | Path,
    params: Mapping[str, Any],
    hf_config: Mapping[str, Any],
    files_from: str | Path | None = None,
    dialect: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """As `export_checkpoint`, for parameters in memory (nested dict of arrays that fits `hf_config`)."""
    specs = llava.param_specs(config_lib.from_hf(dict(hf_config)))
    params_lib.check_params(dict(params), specs, str(out))
    flat = params_lib.flatten(params)
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in flat.items()}

    def read(path: str, layer: int | None, _: np.ndarray) -> np.ndarray:
        return np.asarray(flat[path] if layer is None else flat[path][layer])

    chosen = _dialect(dialect, specs) if dialect else names.default_dialect(specs)
    return _write(
        out,
        read,
        dtypes,
        hf_config,
        specs,
        chosen,
        files_from,
        {},
        shard_bytes,
        progress,
    )


def _dialect(name: str, specs: params_lib.Specs) -> names.Dialect:
    fitting = [dialect.name for dialect in names.fitting(specs)]
    if name not in fitting:
        raise InputError(f"dialect {name!r} does not fit this model; use one of {', '.join(fitting)}")
    return names.DIALECTS[name]


def _write(
    out: str | Path,
    read: Callable[[str, int | None, np.ndarray], np.ndarray],
    dtypes: Mapping[str, np.dtype],
    hf_config: Mapping[str, Any],
    specs: params_lib.Specs,
    dialect: names.Dialect,
    files_from: str | Path | None,
    about: Mapping[str, Any],
    shard_bytes: int,
    progress: Progress | None,
) -> Path:
    progress = progress or (lambda items, label, total: items)
    config, companions, slots = hf_config, files_from, list(names.slots(specs, dialect))
    if original.is_dialect(dialect):
        config = original_files.kept_config(files_from, dialect)
        companions, rows = Path(files_from) / model_folder.ORIGINAL, config["vocab_size"]
        whole = params_lib.flatten(specs)
        nbytes = {path: math.prod(spec.shape) * dtypes[path].itemsize for path, spec in whole.items()}
        slots, read = original.without_rows(slots, rows), original.reader_without_rows(read, rows, nbytes)
    folders = {name: _shards(part, dtypes, shard_bytes) for name, part in _by_folder(slots).items()}
    sizes = {slot: _nbytes(slot, dtypes) for shards in folders.values() for shard in shards for slot in shard}
    with complete_folder(out, marker=MARKER) as folder:
        tensors = stream.export_tensors(sizes, read, progress)
        for name, shards in folders.items():
            (folder / name).mkdir(exist_ok=True)
            _write_shards(folder / name, shards, dtypes, tensors)
        for _ in tensors:  # runs the progress to its end
            raise AssertionError("a tensor without a shard")
        if original.TOWER in folders:
            original_files.describe_tower(folder / original.TOWER, hf_config, files_from)
        if companions is not None:
            model_folder.copy_companions(companions, folder, original=False)
        write_json(folder / "config.json", _with_dtype(config, set(dtypes.values())))
        write_json(folder / MARKER, {**about, "dialect": dialect.name, "packages": model_folder.package_versions()})
    return Path(out)


def _by_folder(slots: Iterable[names.Slot]) -> dict[str, list[names.Slot]]:
    """The tensors of each folder of the export (see `names.Dialect`), "." for the folder itself."""
    folders: dict[str, list[names.Slot]] = {}
    for slot in slots:
        name, _, key = slot.key.rpartition("/")
        folders.setdefault(name or ".", []).append(dataclasses.replace(slot, key=key))
    return folders


def _write_shards(
    folder: Path, shards: list[list[names.Slot]], dtypes: Mapping[str, np.dtype], tensors: Iterator[np.ndarray]
) -> None:
    files = _file_names(len(shards))
    for file, shard in zip(files, shards, strict=True):
        _write_shard(folder / file, shard, dtypes, tensors)
    if len(files) > 1:
        _write_index(folder / INDEX, files, shards, dtypes)


def _write_shard(
    path: Path, shard: list[names.Slot], dtypes: Mapping[str, np.dtype], tensors: Iterator[np.ndarray]
) -> None:
    """A safetensors file, tensor by tensor (huggingface/safetensors README: header length, header, bytes).

    The library's own writer wants all tensors of a file at once.
    """
    kinds = {name: code for code, name in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for slot in shard:
        start, end = end, end + _nbytes(slot, dtypes)
        kind = kinds[dtypes[slot.path].name]
        header[slot.key] = {"dtype": kind, "shape": slot.file_shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of 8 bytes
    with DirectFile(path) as file:
        file.write(np.frombuffer(len(encoded).to_bytes(8, "little") + encoded, np.uint8))
        for _ in shard:
            for panel in stream.panels(next(tensors)):
                file.write(panel)


def _nbytes(slot: names.Slot, dtypes: Mapping[str, np.dtype]) -> int:
    return math.prod(slot.shape) * dtypes[slot.path].itemsize


def _shards(slots: list[names.Slot], dtypes: Mapping[str, np.dtype], shard_bytes: int) -> list[list[names.Slot]]:
    """Cuts the tensors into files of at most `shard_bytes`; the wider numbers first, so that all are aligned."""
    shards: list[list[names.Slot]] = [[]]
    room = shard_bytes
    for slot in slots:
        size = _nbytes(slot, dtypes)
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(slot)
        room -= size
    return [sorted(shard, key=lambda slot: -dtypes[slot.path].itemsize) for shard in shards]


def _file_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _write_index(path: Path, files: list[str], shards: list[list[names.Slot]], dtypes: Mapping[str, np.dtype]) -> None:
    total = sum(_nbytes(slot, dtypes) for shard in shards for slot in shard)
    where = {slot.key: file for file, shard in zip(files, shards, strict=True) for slot in shard}
    write_json(path, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def _with_dtype(hf_config: Mapping[str, Any], dtypes: set[np.dtype]) -> dict[str, Any]:
    """The config with the dtype of the weights: after a cast, transformers would silently cast them back."""
    config = dict(hf_config)
    if len(dtypes) > 1:
        return config
    (dtype,) = (str(d) for d in dtypes)
    for name in ("dtype", "torch_dtype"):
        if config.get(name) is not None:
            config[name] = dtype
    for part in ("text_config", "vision_config"):
        if isinstance(config.get(part), Mapping):
            config[part] = _with_dtype(config[part], dtypes)
    return config
