"""Our model folder: what `bin/convert_hf` and `bin/train` write and every other command reads.

- config.json: the Hugging Face config, unchanged
- tokenizer*, preprocessor_config.json ...: tokenizer and image processor files, unchanged
- params/: Orbax, the parameters alone, uncompressed
- vlm_mu_jax.json: {"format", "template", "dialect", "dtype"}
- provenance.json: where the weights come from
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.folders import complete_folder
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import llava
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.parallel import rules

FORMAT = 1
SETTINGS = "vlm_mu_jax.json"
PARAMS = "params"
# Everything that travels with the weights. Patterns, because tokenizers differ in the files they need.
COMPANION_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)
_CHUNK_BYTES = 256 * 2**20  # pieces of a stacked array that can be read (by another mesh) on their own
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "ml_dtypes",
    "safetensors",
    "transformers",
    "vlm_mu_jax",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model ready to use. processor is None only if `load` was told to do without."""

    params: params_lib.Params
    config: config_lib.LlavaConfig
    processor: Any  # vlm_mu_jax.data.prompts.Processor
    folder: Path


def load(folder: str | Path, mesh: jax.sharding.Mesh | None = None, with_processor: bool = True) -> Model:
    """Loads a model folder, or the final model of a training run.

    Args:
      folder: a model folder, or a workdir that holds one in `model/`.
      mesh: where the parameters go; None = the first device.
      with_processor: False skips the tokenizer and image settings (a checkpoint may have none).

    Raises:
      InputError: no such model, weights of another model, unreadable files.
    """
    folder = find(folder)
    cfg = read_config(folder)
    template = read_settings(folder)["template"]
    processor = None
    if with_processor:
        from vlm_mu_jax.data.prompts import Processor  # brings in transformers

        processor = Processor.from_folder(folder, cfg, template=template)
    return Model(load_params(folder, cfg, mesh), cfg, processor, folder)


def find(folder: str | Path) -> Path:
    """The model folder itself, given it or a run's workdir.

    Raises:
      InputError: there is none.
    """
    folder = Path(folder).expanduser()
    for candidate in (folder, folder / "model"):
        if (candidate / SETTINGS).is_file():
            return candidate.absolute()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a model folder made by bin/convert_hf or bin/train")
    if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: a Hugging Face checkpoint; convert it first (bin/convert_hf --source={folder})")
    raise InputError(f"{folder}: holds no model ({SETTINGS} is missing); give one made by bin/convert_hf or bin/train")


def read_config(folder: Path) -> config_lib.LlavaConfig:
    return config_lib.from_hf(read_json(folder / "config.json"), str(folder / "config.json"))


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of vlm_mu_jax.json: template, dialect, dtype.

    Raises:
      InputError: it is broken or of a later format.
    """
    settings = read_json(folder / SETTINGS)
    missing = {"format", "template", "dialect", "dtype"} - settings.keys()
    if missing:
        raise InputError(f"{folder / SETTINGS}: {', '.join(sorted(missing))} is missing; convert the model again")
    if settings["format"] != FORMAT:
        raise InputError(f"{folder / SETTINGS}: format {settings['format']!r} is not {FORMAT}; update vlm_mu_jax")
    return settings


def write_model_folder(
    out: str | Path,
    params: Mapping[str, Any],
    hf_config: Mapping[str, Any],
    files_from: str | Path | None,
    template: str,
    dialect: str,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder; it appears under its name only when it is complete.

    Args:
      out: the folder; an earlier model folder there is replaced.
      params: nested dict of arrays (numpy or jax) that fits `hf_config`.
      hf_config: content of config.json.
      files_from: folder whose tokenizer and processor files are copied.
      template: name of the conversation template (`data.prompts.TEMPLATES`).
      dialect: spelling of the file keys to use on export (`convert.names.DIALECTS`).
      provenance: content of provenance.json.
    """
    cfg = config_lib.from_hf(dict(hf_config))
    params_lib.check_params(dict(params), llava.param_specs(cfg), str(out))
    dtypes = {str(leaf.dtype) for leaf in params_lib.flatten(params).values()}
    settings = {
        "format": FORMAT,
        "template": template,
        "dialect": dialect,
        "dtype": dtypes.pop() if len(dtypes) == 1 else "mixed",
    }
    with complete_folder(out, marker=SETTINGS) as folder:
        if files_from is not None:
            copy_companions(files_from, folder)
        write_json(folder / "config.json", hf_config)
        write_json(folder / "provenance.json", provenance)
        write_json(folder / SETTINGS, settings)
        _save(folder / PARAMS, params)
    return Path(out)


def load_params(
    folder: str | Path, cfg: config_lib.LlavaConfig, mesh: jax.sharding.Mesh | None = None
) -> params_lib.Params:
    """Restores the parameters as jax arrays, in the dtype they were saved in.

    Args:
      folder: a model folder.
      cfg: its config; the stored shapes must be exactly those it calls for.
      mesh: sharded over it by the rule table; None = all on the first device.

    Raises:
      InputError: the weights are another model's, or cannot be read.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    specs = llava.param_specs(cfg)
    stored = stored_arrays(folder)
    params_lib.check_params(stored, specs, str(folder))
    if mesh is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: here, stored)
    else:
        shardings = rules.shardings(specs, mesh)
    arguments = jax.tree.map(lambda sharding: ocp.ArrayRestoreArgs(sharding=sharding), shardings)
    return _restore(folder, stored, arguments)


def read_leaf(folder: Path, path: str) -> np.ndarray:
    """One parameter ("decoder/embed_VD") as numpy, without reading the others."""
    import orbax.checkpoint as ocp

    item, arguments = (params_lib.unflatten({path: value}) for value in (0, ocp.RestoreArgs(restore_type=np.ndarray)))
    return params_lib.flatten(_restore(Path(folder), item, arguments, partial_restore=True))[path]


def stored_arrays(folder: Path) -> dict[str, Any]:
    """Tree of what params/ holds: leaves have `shape` and `dtype`.

    Raises:
      InputError: it cannot be read.
    """
    with _explained(folder):
        metadata = _checkpointer().metadata(folder / PARAMS).item_metadata
        if metadata is None:
            raise FileNotFoundError("the list of arrays is missing")
        return dict(metadata.tree)


def copy_companions(source: str | Path, out: Path) -> list[str]:
    """Copies tokenizer and processor files; returns their names."""
    found = sorted({path for pattern in COMPANION_FILES for path in Path(source).glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, out / path.name)
    return [path.name for path in found]


def has_tokenizer(folder: str | Path) -> bool:
    files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return any((Path(folder) / name).is_file() for name in files)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: the file is missing, no JSON, or something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; is {path.parent} a complete model folder?") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a JSON object; restore the file")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def package_versions() -> dict[str, str]:
    """Versions that decide what a run computes."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _save(path: Path, params: Mapping[str, Any]) -> None:
    """Orbax, OCDBT without compression: weights do not shrink, and reading stays as fast as the disk."""
    import orbax.checkpoint as ocp

    cpu = jax.local_devices(backend="cpu")[0]

    def shared(leaf: Any) -> Any:
        """numpy -> CPU array over the same memory; Orbax would copy a numpy array once more."""
        return jax.device_put(leaf, cpu, may_alias=True) if isinstance(leaf, np.ndarray) else leaf

    tree = jax.tree.map(shared, dict(params))
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), tree)
    _checkpointer().save(path.absolute(), args=ocp.args.PyTreeSave(tree, save_args=pieces))


def _restore(folder: Path, item: Any, arguments: Any, partial_restore: bool = False) -> params_lib.Params:
    import orbax.checkpoint as ocp

    request = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=partial_restore)
    with _explained(folder):
        return _checkpointer().restore(folder.absolute() / PARAMS, args=request)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Whatever Orbax and TensorStore raise on missing or damaged files becomes one line."""
    if not (folder / PARAMS).is_dir():
        raise InputError(f"{folder / PARAMS}: missing; convert or train the model again")
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        what = f"cannot be read ({type(error).__name__}: {reason})"
        raise InputError(f"{folder / PARAMS}: {what}; convert or train the model again") from error


@functools.cache
def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False))
