"""`vlm_mu_jax.convert`: a checkpoint of any layout -> a model folder of ours."""

import dataclasses
from pathlib import Path

from vlm_mu_jax.conversion.importer import ConvertOptions, opened, sources
from vlm_mu_jax.conversion.replacing import check_model_folder
from vlm_mu_jax.conversion.template import Wanted, choose_template
from vlm_mu_jax.data.image_settings import fitted, read_settings, unknown_fields
from vlm_mu_jax.data.tokenizer_files import check_tokenizer
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import generation, stored_params
from vlm_mu_jax.storage.model_folder import PARAMS, SETTINGS, copy_companions, has_tokenizer, write_facts
from vlm_mu_jax.storage.origin import licence_of


@dataclasses.dataclass(frozen=True)
class Converted:
    """A checkpoint as a model folder.

    parameters: how many numbers. dtype: of all of them, or "mixed". template: name of the chat template.
    dialect: how the source spells its tensors (`names.DIALECTS`). replaced: what the folder held before, in words.
    warnings: what of the checkpoint's files is not followed, one sentence each.
    """

    folder: Path
    parameters: int
    dtype: str
    template: str
    dialect: str
    has_tokenizer: bool
    replaced: str | None = None
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """What the folder holds, in one line."""
        size = f"{self.parameters / 1e9:.2f} billion" if self.parameters >= 1e8 else f"{self.parameters:,}"
        what = f"{size} parameters, {self.dtype}, template {self.template}, from {self.dialect} tensor names"
        return f"{what}; replaces {self.replaced}" if self.replaced else what


def convert(
    source: str | Path, out: str | Path, options: ConvertOptions | None = None, progress: Progress | None = None
) -> Converted:
    """Writes a checkpoint as a model folder, which every other function of the package reads.

    A few tensors are in memory at a time, whatever the size of the model. `out` appears when it is complete.

    Args:
      source: a local folder, a GGUF file, or a hub id such as "llava-hf/llava-1.5-7b-hf"; see `locate.locate`.
      out: the folder to write. An earlier conversion there is replaced, anything else only with `options.overwrite`.
      options: how the source is read.
      progress: shown over tensors; None is silent. `vlm_mu_jax.progress.bar` is a progress bar.

    Returns:
      What was written.

    Raises:
      InputError: a file is missing or broken, the tensors are not exactly those that config.json calls for, or `out`
        may not be replaced.

    Example:
      vlm_mu_jax.convert("llava-hf/llava-1.5-7b-hf", "runs/base")
      model = vlm_mu_jax.load("runs/base")
    """
    options = options or ConvertOptions()
    folders = sources(source, options)
    replaced = check_model_folder(out, folders.values(), options.overwrite)
    with opened(source, options, folders) as job:
        found = job.source
        wanted = Wanted(options.template, options.chat_template, options.system)
        called = [str(where) for where in job.given.values() if where]
        template = choose_template(found.folder, wanted, found.hf_config, found.dialect.name, called)
        with complete_folder(out, SETTINGS, options.overwrite) as folder:
            with found.companions() as companions:
                doubts = check_tokenizer(Path(companions), found.config)
                copy_companions(companions, folder)
            template.write(folder)
            warnings = (*doubts, *_check_images(folder, found.config), *_check_generation(folder))
            with stored_params.ParamsWriter(folder / PARAMS, found.specs, job.dtypes) as writer:
                job.read(writer.write, progress)
            write_facts(
                folder,
                found.hf_config,
                job.dtypes.values(),
                template.name,
                found.dialect.name,
                {
                    **job.provenance(),
                    "license": licence_of(found.folder),
                    "chat_template": template.facts(),
                },
                system=template.system,
            )
            tokenizer = has_tokenizer(folder)
    return Converted(
        resolved(out), job.parameters, job.dtype, template.name, found.dialect.name, tokenizer, replaced, warnings
    )


def _check_images(folder: Path, config: ModelConfig) -> list[str]:
    """Refuses an image processor that we cannot follow, and lists the fields of it that we do not know."""
    if config.vision is None:
        return []
    fitted(folder, config.vision)
    read_settings(folder, config.vision.image_size)
    unknown = unknown_fields(folder)
    return [f"unknown fields of the image processor are ignored: {', '.join(unknown)}"] if unknown else []


def _check_generation(folder: Path) -> list[str]:
    """Settings under which transformers' greedy answers are others than the model's likeliest tokens."""
    changed = [f"{name}={value!r}" for name, value in generation.other_settings(folder).items()]
    what = "is not followed: answers here are the model's likeliest tokens"
    return [f"generation_config.json {', '.join(changed)} {what}"] if changed else []
