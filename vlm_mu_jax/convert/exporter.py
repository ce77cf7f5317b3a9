"""Our parameters -> a Hugging Face folder that `transformers` loads.

The exact inverse of the importer: the same table, the same spelling of the keys as the source had, the same bits.
Tensors are written shard by shard, so that the peak memory is one shard plus one stacked parameter.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax import model_folder
from vlm_mu_jax.convert import names
from vlm_mu_jax.convert.tensor_files import INDEX, SINGLE
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.folders import complete_folder
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import llava
from vlm_mu_jax.model import params as params_lib

Progress = Callable[[Iterable, str, int | None], Iterable]

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
    hf_config = model_folder.read_json(folder / "config.json")
    specs = llava.param_specs(config_lib.from_hf(hf_config, str(folder / "config.json")))
    stored = model_folder.stored_arrays(folder)
    params_lib.check_params(stored, specs, str(folder))
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in params_lib.flatten(stored).items()}
    about = {"source": str(source), "provenance": model_folder.read_json(folder / "provenance.json")}
    return _write(
        out, lambda path: model_folder.read_leaf(folder, path), dtypes, hf_config, specs,
        _dialect(dialect or settings["dialect"], specs), folder, about, shard_bytes, progress,
    )  # fmt: skip


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
    chosen = _dialect(dialect, specs) if dialect else names.default_dialect(specs)
    return _write(
        out, lambda path: np.asarray(flat[path]), dtypes, hf_config, specs,
        chosen, files_from, {}, shard_bytes, progress,
    )  # fmt: skip


def _dialect(name: str, specs: params_lib.Specs) -> names.Dialect:
    fitting = [d.name for d in names.DIALECTS.values() if (d.vision is not None) == ("vision" in specs)]
    if name not in fitting:
        raise InputError(f"dialect {name!r} does not fit this model; use one of {', '.join(fitting)}")
    return names.DIALECTS[name]


def _write(
    out: str | Path,
    read_leaf: Callable[[str], np.ndarray],
    dtypes: Mapping[str, np.dtype],
    hf_config: Mapping[str, Any],
    specs: params_lib.Specs,
    dialect: names.Dialect,
    files_from: str | Path | None,
    about: Mapping[str, Any],
    shard_bytes: int,
    progress: Progress | None,
) -> Path:
    from safetensors.numpy import save_file

    progress = progress or (lambda items, label, total: items)
    slots = list(names.slots(specs, dialect))
    shards = _shards(slots, dtypes, shard_bytes)
    files = _file_names(len(shards))
    with complete_folder(out, marker=MARKER) as folder:
        tensors = _tensors(progress(slots, "writing tensors", len(slots)), read_leaf)
        for file, shard in zip(files, shards, strict=True):
            # transformers refuses files without the format entry
            save_file({slot.key: next(tensors) for slot in shard}, folder / file, metadata={"format": "pt"})
            (folder / file).chmod(folder.stat().st_mode & 0o666)  # safetensors lets only the owner read them
        for _ in tensors:  # runs the progress to its end
            raise AssertionError("a tensor without a shard")
        if len(files) > 1:
            _write_index(folder / INDEX, files, shards, dtypes)
        if files_from is not None:
            model_folder.copy_companions(files_from, folder)
        model_folder.write_json(folder / "config.json", _with_dtype(hf_config, set(dtypes.values())))
        model_folder.write_json(
            folder / MARKER, {**about, "dialect": dialect.name, "packages": model_folder.package_versions()}
        )
    return Path(out)


def _tensors(slots: Iterable[names.Slot], read_leaf: Callable[[str], np.ndarray]) -> Iterator[np.ndarray]:
    """Tensors in slot order. All layers of a parameter follow each other, so that it is read once and then dropped."""
    path, leaf = None, None
    for slot in slots:
        if slot.path != path:
            leaf = None
            path, leaf = slot.path, read_leaf(slot.path)
        yield slot.layout.to_file(leaf[slot.index()])


def _shards(slots: list[names.Slot], dtypes: Mapping[str, np.dtype], shard_bytes: int) -> list[list[names.Slot]]:
    """Cuts the tensors into runs of at most `shard_bytes`."""
    shards: list[list[names.Slot]] = [[]]
    room = shard_bytes
    for slot in slots:
        size = math.prod(slot.shape) * dtypes[slot.path].itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(slot)
        room -= size
    return shards


def _file_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _write_index(path: Path, files: list[str], shards: list[list[names.Slot]], dtypes: Mapping[str, np.dtype]) -> None:
    total = sum(math.prod(slot.shape) * dtypes[slot.path].itemsize for shard in shards for slot in shard)
    where = {slot.key: file for file, shard in zip(files, shards, strict=True) for slot in shard}
    model_folder.write_json(path, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


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
