"""`vlm_mu_jax.export`: a model of ours -> a Hugging Face folder that `transformers` loads.

The export is the exact inverse of the import. It uses the same table, spells the keys as the source did, and writes the
same bits. Tensors are read and written one by one, so that a few of them are in memory at a time.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.conversion import model_card, names, original, original_files, stream
from vlm_mu_jax.conversion.peft_writer import export_adapter
from vlm_mu_jax.conversion.replacing import MARKER, check_export
from vlm_mu_jax.conversion.tensor_files import DTYPES, INDEX, SINGLE
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.direct_file import DirectFile
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model import vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder, origin, stored_params

SHARD_BYTES = 5 * 10**9  # as save_pretrained's default has been for years


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    what: "model", the whole model for transformers; "adapter", the LoRA adapter of a run for peft.
    dialect: how the tensors are spelled (`names.DIALECTS`); None takes the spelling of the checkpoint that the weights
      once came from.
    shard_bytes: largest size of one file; a single larger tensor gets a file of its own.
    overwrite: replace whatever is in the output folder, even a trained model.
    results: folders of `bin/eval`, or their results.json, whose numbers the model card shows.
    """

    what: str = "model"
    dialect: str | None = None
    shard_bytes: int = SHARD_BYTES
    overwrite: bool = False
    results: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote. nbytes: size of the weights files. replaced: what the folder held before, in words."""

    folder: Path
    what: str
    nbytes: int
    replaced: str | None = None

    def describe(self, source: str | Path) -> str:
        """What was written of `source`, and what loads it, in one line."""
        size = f"{self.nbytes / 1e9:.2f} GB" if self.nbytes >= 1e8 else f"{self.nbytes / 1e6:.2f} MB"
        adapter = self.what == "adapter"
        reader = "peft loads it over the model that the run started from" if adapter else "transformers loads it"
        replacing = f"; replaces {self.replaced}" if self.replaced else ""
        return f"{self.what} of {source} written, {size}; {reader}{replacing}"


def export(
    source: str | Path, out: str | Path, options: ExportOptions | None = None, progress: Progress | None = None
) -> Exported:
    """Writes a model of ours as a Hugging Face checkpoint, or the adapter of a LoRA run as a PEFT adapter.

    Args:
      source: our model folder, or the workdir of a training run.
      out: the folder to write. An earlier export there is replaced, a trained model only if it is the same one or with
        `options.overwrite`.
      options: what is exported, and how.
      progress: shown over tensors; None is silent.

    Returns:
      What was written.

    Raises:
      InputError: `source` is no model folder of ours or is damaged, or `out` may not be replaced.

    Example:
      vlm_mu_jax.export("runs/npo", "runs/npo_hf")  # transformers loads runs/npo_hf
    """
    options = options or ExportOptions()
    folder = model_folder.find(source)
    settings = model_folder.read_settings(folder)
    if options.what not in ("model", "adapter"):
        raise InputError(f"what={options.what!r}: not known; use 'model' or 'adapter'")
    about = {"source": str(source), "provenance": origin.provenance(folder)}
    replaced = check_export(out, [Path(source), folder], options.overwrite, about["provenance"])
    if options.what == "adapter":
        export_adapter(source, out, options.dialect, about, options.overwrite)
    else:
        hf_config = read_json(folder / "config.json")
        specs = vlm.param_specs(from_hf(hf_config, str(folder / "config.json")))
        stored = stored_params.ParamsReader(folder / model_folder.PARAMS)
        params_lib.check_params(params_lib.unflatten(stored.arrays), specs, str(folder))
        dtypes = {path: np.dtype(array.dtype) for path, array in stored.arrays.items()}
        card = model_card.card(resolved(out).name, folder, hf_config, options.results)
        dialect = _dialect(options.dialect or settings["dialect"], specs)
        weights = _Weights(stored.read, dtypes, hf_config, specs, dialect, folder)
        _write(out, weights, about, options, progress, card)
    written = resolved(out)
    size = sum(path.stat().st_size for path in written.rglob("*.safetensors"))
    return Exported(written, options.what, size, replaced)


def export_params(
    out: str | Path,
    params: Mapping[str, Any],
    hf_config: Mapping[str, Any],
    files_from: str | Path | None = None,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes parameters in memory as a Hugging Face checkpoint.

    Args:
      params: nested dict of arrays that fits `hf_config`.
      hf_config: content of config.json.
      files_from: folder whose tokenizer and processor files are copied; None copies none.
      options: as for `export`, without an adapter.
    """
    options = options or ExportOptions()
    specs = vlm.param_specs(from_hf(dict(hf_config)))
    params_lib.check_params(dict(params), specs, str(out))
    flat = params_lib.flatten(params)
    dtypes = {path: np.dtype(leaf.dtype) for path, leaf in flat.items()}

    def read(path: str, layer: int | None, _: np.ndarray) -> np.ndarray:
        return np.asarray(flat[path] if layer is None else flat[path][layer])

    dialect = _dialect(options.dialect, specs) if options.dialect else names.default_dialect(specs)
    files = None if files_from is None else Path(files_from)
    return _write(out, _Weights(read, dtypes, hf_config, specs, dialect, files), {}, options, progress)


@dataclasses.dataclass(frozen=True)
class _Weights:
    """What is written. read(path, layer, buffer): one layer of a parameter. files_from: folder of the other files."""

    read: Callable[[str, int | None, np.ndarray], np.ndarray]
    dtypes: Mapping[str, np.dtype]
    hf_config: Mapping[str, Any]
    specs: params_lib.Specs
    dialect: names.Dialect
    files_from: Path | None


def _dialect(name: str, specs: params_lib.Specs) -> names.Dialect:
    fitting = [dialect.name for dialect in names.fitting(specs)]
    if name not in fitting:
        raise InputError(f"dialect {name!r} does not fit this model; use one of {', '.join(fitting)}")
    return names.DIALECTS[name]


def _write(
    out: str | Path,
    weights: _Weights,
    about: Mapping[str, Any],
    options: ExportOptions,
    progress: Progress | None,
    card: str | None = None,
) -> Path:
    progress = progress or (lambda items, label, total: items)
    dtypes, dialect, files_from = weights.dtypes, weights.dialect, weights.files_from
    config, companions = weights.hf_config, files_from
    slots, read = list(names.slots(weights.specs, dialect)), weights.read
    if original.is_dialect(dialect):
        config = original_files.kept_config(files_from, dialect)
        companions, rows = Path(files_from) / model_folder.ORIGINAL, config["vocab_size"]
        whole = params_lib.flatten(weights.specs)
        nbytes = {path: math.prod(spec.shape) * dtypes[path].itemsize for path, spec in whole.items()}
        slots, read = original.without_rows(slots, rows), original.reader_without_rows(read, rows, nbytes)
    folders = {name: _shards(part, dtypes, options.shard_bytes) for name, part in _by_folder(slots).items()}
    sizes = {slot: _nbytes(slot, dtypes) for shards in folders.values() for shard in shards for slot in shard}
    with complete_folder(out, MARKER, options.overwrite) as folder:
        tensors = stream.export_tensors(sizes, read, progress)
        for name, shards in folders.items():
            (folder / name).mkdir(exist_ok=True)
            _write_shards(folder / name, shards, dtypes, tensors)
        for _ in tensors:  # runs the progress to its end
            raise AssertionError("a tensor without a shard")
        if original.TOWER in folders:
            original_files.describe_tower(folder / original.TOWER, weights.hf_config, files_from)
        if companions is not None:
            model_folder.copy_companions(companions, folder, original=False)
        write_json(folder / "config.json", _with_dtype(config, set(dtypes.values())))
        if card is not None:
            (folder / origin.CARD).write_text(card, encoding="utf-8")
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
