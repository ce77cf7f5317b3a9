"""Our model folder: what `bin/convert_hf` and `bin/train` write and every other command reads.

- config.json: the Hugging Face config, unchanged
- tokenizer*, preprocessor_config.json ...: tokenizer and image processor files, unchanged
- params/: Orbax, the parameters alone, uncompressed (see stored_params.py)
- original/: of an original LLaVA checkpoint, its own config and tokenizer files (see conversion/original_files.py)
- vlm_mu_jax.json: {"format", "template", "dialect", "dtype"}, and "system" when one replaces the template's own
- provenance.json: where the weights come from
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder, partial_folder
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model import vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.memory import generation_bytes
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.model.quantize import quantize as quantize_params
from vlm_mu_jax.parallel import distributed, placement
from vlm_mu_jax.storage import generation, stored_params
from vlm_mu_jax.storage.identity import weights_hash

if TYPE_CHECKING:  # brings in transformers
    from vlm_mu_jax.data.prompts import Processor

FORMAT = 1
SETTINGS = "vlm_mu_jax.json"
PARAMS = "params"
ORIGINAL = "original"
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
    """A model ready to use.

    Attributes:
      processor: tokenizer, chat template and image settings. None only after `load(with_processor=False)`.
      changed: what was done to the stored weights, such as "int4:128" for quantisation; None for weights as they are
        stored.
      stored_sha256: `identity.weights_hash` of the stored weights where these are changed, else None. A guard that was
        extracted from them goes with the changed ones.
    """

    params: params_lib.Params
    config: config_lib.ModelConfig
    processor: "Processor | None"
    folder: Path
    changed: str | None = None
    stored_sha256: str | None = None


def load(
    folder: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    with_processor: bool = True,
    quantize: str | None = None,
) -> Model:
    """Loads a model folder, or the final model of a training run.

    Args:
      folder: a model folder, or a workdir that holds one in `model/`.
      mesh: where the parameters go. None = as `parallel.placement.placed` says; outside of it, the first device.
      with_processor: False skips the tokenizer and image settings (a checkpoint may have none).
      quantize: the weights are those that storage in few bits would leave: "int8", "int4", "nf4", or one of them with
        its scales, as in "int4:32"; see `model.quantize`.

    Raises:
      InputError: no such model, weights of another model, unreadable files, no such quantisation, or a model that does
        not fit.
    """
    name, folder, scheme = str(folder), find(folder), None if quantize is None else Scheme.parse(quantize)
    cfg = read_config(folder)
    processor = None
    if with_processor:
        processor = read_processor(folder)
        cfg = processor.cfg
    mesh = chosen_mesh(name, cfg, read_settings(folder)["dtype"]) if mesh is None else mesh
    params = stored_params.load(folder / PARAMS, vlm.param_specs(cfg), mesh)
    model = Model(params, cfg, processor, folder)
    return model if scheme is None else quantized(model, scheme)


def chosen_mesh(name: str, cfg: config_lib.ModelConfig, dtype: str) -> jax.sharding.Mesh | None:
    """The mesh of a model with weights of this dtype, as `parallel.placement.placed` says; None is the first device."""
    placing = placement.current()
    needed = functools.partial(generation_bytes, cfg, dtype)
    return None if placing is None else placing.mesh(name, needed)


def quantized(model: Model, scheme: Scheme) -> Model:
    """The model with the weights that storage by the scheme would leave. One that has them stays as it is: rounding
    twice would not be the same."""
    return model if model.changed == str(scheme) else changed(model, quantize_params(model.params, scheme), str(scheme))


def changed(model: Model, params: params_lib.Params, what: str) -> Model:
    """The model with other weights, made of its own as `what` says."""
    sha256 = model.stored_sha256 or weights_hash(model.params)
    return dataclasses.replace(model, params=params, changed=what, stored_sha256=sha256)


def read_processor(folder: Path) -> "Processor":
    """The tokenizer, chat template and image settings. Its `cfg` is the model's, with the image plan that they ask for.

    Raises:
      InputError: a file is missing or not usable.
    """
    from vlm_mu_jax.data.prompts import Processor  # brings in transformers

    settings = read_settings(folder)
    return Processor.from_folder(folder, read_config(folder), settings["template"], settings.get("system"))


def opened(model: Model | str | Path) -> Model:
    """The model itself, or what `load` makes of its folder."""
    return load(model) if isinstance(model, str | Path) else model


def find(folder: str | Path) -> Path:
    """The model folder itself, given it or a run's workdir.

    Raises:
      InputError: there is none.
    """
    found = resolved(folder)
    for candidate in (found, found / "model"):
        if (candidate / SETTINGS).is_file():
            return candidate
    if not found.is_dir():
        raise InputError(f"{folder}: no such folder; give a model folder made by bin/convert_hf or bin/train")
    if (found / "config.json").is_file() and list(found.glob("*.safetensors")):
        raise InputError(f"{folder}: a Hugging Face checkpoint; convert it first (bin/convert_hf --source={folder})")
    raise InputError(f"{folder}: holds no model ({SETTINGS} is missing); give one made by bin/convert_hf or bin/train")


def read_config(folder: Path) -> config_lib.ModelConfig:
    """The model's config, with the end tokens that generation_config.json names."""
    return generation.with_ends(from_hf(read_json(folder / "config.json"), str(folder / "config.json")), folder)


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
    for name in ("template", "dialect", "dtype", "system"):
        if not isinstance(settings.get(name, ""), str):
            raise InputError(f"{folder / SETTINGS}: {name} is no text; convert the model again")
    return settings


def write_model_folder(
    out: str | Path,
    params: Mapping[str, Any],
    hf_config: Mapping[str, Any],
    files_from: str | Path | None,
    template: str,
    dialect: str,
    provenance: Mapping[str, Any],
    system: str | None = None,
) -> Path:
    """Writes a model folder; it appears under its name only when it is complete.

    In a job of several processes all must call it, with their shards of `params`; process 0 writes the rest.

    Args:
      out: the folder; an earlier model folder there is replaced.
      params: nested dict of arrays (numpy or jax) that fits `hf_config`.
      hf_config: content of config.json.
      files_from: folder whose tokenizer and processor files are copied.
      template: name of the chat template (`data.chat_template.TEMPLATES`), or "own" for the one in `files_from`.
      dialect: spelling of the file keys to use on export (`conversion.names.DIALECTS`).
      provenance: content of provenance.json.
      system: system text of conversations that have none of their own; None = the template's.
    """
    cfg = from_hf(dict(hf_config))
    specs = vlm.param_specs(cfg)
    params_lib.check_params(dict(params), specs, str(out))
    dtypes = [leaf.dtype for leaf in params_lib.flatten(params).values()]
    one = complete_folder(out, marker=SETTINGS) if distributed.first() else contextlib.nullcontext(partial_folder(out))
    with one as folder:
        if distributed.first():
            if files_from is not None:
                copy_companions(files_from, folder)
            write_facts(folder, hf_config, dtypes, template, dialect, provenance, system)
        distributed.sync("model folder begun")
        stored_params.save(folder / PARAMS, params, specs)
    distributed.sync("model folder complete")
    return Path(out)


def write_facts(
    folder: Path,
    hf_config: Mapping[str, Any],
    dtypes: Iterable[Any],
    template: str,
    dialect: str,
    provenance: Mapping[str, Any],
    system: str | None = None,
) -> None:
    """Writes everything about the parameters but themselves; arguments as for `write_model_folder`.

    Args:
      dtypes: of the parameters.
    """
    kinds = {str(dtype) for dtype in dtypes}
    settings = {
        "format": FORMAT,
        "template": template,
        "dialect": dialect,
        "dtype": kinds.pop() if len(kinds) == 1 else "mixed",
    }
    if system is not None:
        settings["system"] = system
    write_json(folder / "config.json", hf_config)
    write_json(folder / "provenance.json", provenance)
    write_json(folder / SETTINGS, settings)


def copy_companions(source: str | Path, out: Path, original: bool = True) -> list[str]:
    """Copies tokenizer and processor files, and `original/` if there is one and it is wanted; returns their names."""
    found = sorted({path for pattern in COMPANION_FILES for path in Path(source).glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, out / path.name)
    if original and (Path(source) / ORIGINAL).is_dir():
        shutil.copytree(Path(source) / ORIGINAL, out / ORIGINAL)
    return [path.name for path in found]


def has_tokenizer(folder: str | Path) -> bool:
    files = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return any((Path(folder) / name).is_file() for name in files)


def package_versions() -> dict[str, str]:
    """Versions that decide what a run computes."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
