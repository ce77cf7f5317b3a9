"""What a conversion reads, put together: a checkpoint folder, its vision tower, an adapter."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlm_mu_jax.conversion import gguf_file, gguf_kinds, gguf_tokenizer, names, original, original_files, peft
from vlm_mu_jax.conversion.overlay import Tensors, same_tensor
from vlm_mu_jax.conversion.tensor_files import opener
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model import config as config_lib
from vlm_mu_jax.model import params as params_lib
from vlm_mu_jax.model import vlm
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.storage.model_folder import has_tokenizer

Open = Callable[..., contextlib.AbstractContextManager[Tensors]]


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    files: its tensors, under the keys of `dialect`.
    hf_config: config.json as a LLaVA-HF or Llama checkpoint has it.
    folder: where its tokenizer is.
    companions: context manager that yields a folder with the tokenizer and processor files of the model folder.
    """

    files: Tensors
    hf_config: dict[str, Any]
    config: config_lib.ModelConfig
    specs: params_lib.Specs
    dialect: names.Dialect
    folder: Path
    companions: Callable[[], contextlib.AbstractContextManager[Path]]


@contextlib.contextmanager
def open_source(
    folder: Path, open_files: Open, vision_tower: Path | None = None, lora: Path | None = None
) -> Iterator[Source]:
    """Opens a checkpoint of any layout; reads headers only.

    Args:
      folder: the checkpoint, or the base of `lora`; or a GGUF file.
      open_files: opens the weights of a folder, or (with `stem`) one file of it; None if there is no such file.
      vision_tower: CLIP checkpoint of an original LLaVA that has none inside.
      lora: PEFT adapter to merge. If it carries a LLaVA config (llava/train/train.py), that says what the model is.

    Raises:
      InputError: a file is missing or broken, a layout is not supported, or a folder is given that nothing needs.
    """
    with contextlib.ExitStack() as stack:
        if folder.suffix.lower() == gguf_file.SUFFIX and folder.is_file():
            if vision_tower is not None or lora is not None:
                raise InputError(f"--vision_tower and --lora do not go with a GGUF file ({folder}); leave them out")
            yield _gguf(folder, stack)
            return
        adapter = None if lora is None else peft.Adapter(lora, opener(stack, open_files))
        described = _described_by(folder, lora)
        config = read_json(described / "config.json")
        files = stack.enter_context(open_files(folder))
        if original.is_original(config):
            yield _original(files, config, described, folder, vision_tower, adapter, stack, open_files)
            return
        if vision_tower is not None:
            raise InputError(f"--vision_tower: {folder} is no original LLaVA, its vision tower is inside; leave it out")
        name = str(described / "config.json")
        cfg = from_hf(config, name)
        dialect = names.find_dialect(files.tensors.keys(), vlm.param_specs(cfg), str(folder))
        if cfg.text.tie_embeddings and _has_own_head(files, dialect) and not _ties(config.get("text_config", config)):
            config |= {"tie_word_embeddings": False}
            cfg = from_hf(config, name)
        specs = vlm.param_specs(cfg)
        if adapter is not None:
            files = peft.merged(files, adapter, specs, dialect)
        yield Source(files, config, cfg, specs, dialect, folder, lambda: contextlib.nullcontext(folder))


def _ties(text_config: Any) -> bool:
    return isinstance(text_config, dict) and bool(text_config.get("tie_word_embeddings"))


def _has_own_head(files: Tensors, dialect: names.Dialect) -> bool:
    """Whether the file holds an output matrix that is not the embedding. Where the levels of a config disagree on tied
    embeddings, that decides (as in transformers 5): the outer field of InternVL is true whatever the model is."""
    return names.head(dialect) in files.tensors and not same_tensor(
        files, names.head(dialect), names.embedding(dialect)
    )


def _gguf(path: Path, stack: contextlib.ExitStack) -> Source:
    """A GGUF file. Its tokenizer is written out first: the chat template is read there."""
    file = gguf_file.GgufFile(path)
    config, files = gguf_kinds.read(file)
    made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    config |= gguf_tokenizer.write_tokenizer(file, made)
    stack.enter_context(files)
    cfg = from_hf(config, str(path))
    specs = vlm.param_specs(cfg)
    return Source(files, config, cfg, specs, names.default_dialect(specs), made, lambda: contextlib.nullcontext(made))


def _described_by(folder: Path, lora: Path | None) -> Path:
    """The folder whose config.json describes the model: LLaVA's adapters turn a Vicuna into a LLaVA."""
    own = None if lora is None else lora / "config.json"
    if own is None or not own.is_file() or not original.is_original(read_json(own)):
        return folder
    base = read_json(folder / "config.json")
    return folder if "vision_config" in base or original.is_original(base) else lora


def _original(
    files: Tensors,
    config: dict[str, Any],
    described: Path,
    folder: Path,
    vision_tower: Path | None,
    adapter: peft.Adapter | None,
    stack: contextlib.ExitStack,
    open_files: Open,
) -> Source:
    name = str(described / "config.json")
    original.check(config, name)
    tokenizer_folder = next((f for f in (described, folder) if has_tokenizer(f)), folder)
    tokenizer = original_files.read_tokenizer(tokenizer_folder, original.LANGUAGE_MODELS[config["model_type"]])
    hf_config = original.hf_config(config, original.vision_config(config, vision_tower, name), tokenizer, name)
    cfg = from_hf(hf_config, name)
    specs = vlm.param_specs(cfg)
    if not original.has_tower(files):
        tower = None if vision_tower is None else stack.enter_context(open_files(vision_tower))
        files = original.with_tower(files, tower, config)
    dialect = names.find_dialect(files.tensors.keys(), specs, str(folder))
    if adapter is not None:
        files = peft.merged(files, adapter, specs, dialect)
    files = original.with_rows(files, cfg.text.V)

    @contextlib.contextmanager
    def companions() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as made:
            original_files.write_companions(Path(made), described, tokenizer_folder, vision_tower, hf_config, tokenizer)
            yield Path(made)

    return Source(files, hf_config, cfg, specs, dialect, tokenizer_folder, companions)
