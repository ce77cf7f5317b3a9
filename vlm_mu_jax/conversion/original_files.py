"""Tokenizer, processor and config files of the original LLaVA layout (see original.py), in both directions.

The model folder keeps the source's own files in `original/`, so that an export gives the same checkpoint back.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.original import IMAGE, PAD
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.storage.model_folder import (
    COMPANION_FILES,
    ORIGINAL,
    SETTINGS,
    copy_companions,
    has_tokenizer,
)

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read_tokenizer(folder: Path, language_model: str) -> Any | None:
    """The checkpoint's tokenizer with `<image>` and `<pad>` added. None if the folder holds no tokenizer.

    LLaVA tokenizes the text before and after an image separately, each with SentencePiece's prefix space. The setting
    `legacy` keeps that space after the special token `<image>`.

    Args:
      folder: where the tokenizer files are.
      language_model: the model_type whose tokenizer is assumed where the files name none.

    Raises:
      InputError: the files are broken.
    """
    if not has_tokenizer(folder):
        return None
    from transformers import AddedToken, AutoTokenizer  # heavy import

    with tempfile.TemporaryDirectory() as alone:  # beside LLaVA's config.json, transformers may not know the model
        copy_companions(folder, Path(alone))
        write_json(Path(alone) / "config.json", {"model_type": language_model})
        try:
            tokenizer = AutoTokenizer.from_pretrained(alone, local_files_only=True, legacy=True)
        except Exception as error:  # damaged files raise anything, the Rust parser even a bare Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: no usable tokenizer ({reason}); restore its files") from error
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (IMAGE, PAD)], special_tokens=True
    )
    tokenizer.pad_token = PAD
    return tokenizer


def write_companions(
    out: Path, described: Path, source: Path, tower: Path | None, hf: Mapping[str, Any], tokenizer: Any | None
) -> None:
    """Writes tokenizer, processor and image processor files as llava-hf has them, and the source's own to `original/`.

    Args:
      out: folder to write into.
      described: folder of the original config.json.
      source: folder of the original tokenizer.
      tower: folder of the vision tower. Its preprocessor_config.json holds mean and standard deviation.
      hf: see `hf_config`.
      tokenizer: see `read_tokenizer`.
    """
    config = read_json(described / "config.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(out))
        settings = out / "tokenizer_config.json"
        write_json(settings, {**read_json(settings), "legacy": True})  # transformers 5 uses it and forgets to save it
    write_json(out / "preprocessor_config.json", _image_processor(config, source, tower, hf))
    tiled = hf["model_type"] == "llava_next"
    processor = {
        "processor_class": "LlavaNextProcessor" if tiled else "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": hf["vision_config"]["patch_size"],
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": hf["vision_feature_select_strategy"],
    }
    write_json(out / "processor_config.json", processor)
    kept = out / ORIGINAL
    kept.mkdir()
    for path in (described / "config.json", *(path for name in COMPANION_FILES for path in source.glob(name))):
        shutil.copyfile(path, kept / path.name)


def _image_processor(
    config: Mapping[str, Any], source: Path, tower: Path | None, hf: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of preprocessor_config.json.

    `image_aspect_ratio: pad` pads to a square with the mean colour (haotian-liu/LLaVA@llava/mm_utils.py).
    """
    found = [folder / "preprocessor_config.json" for folder in (tower, source) if folder is not None]
    theirs = next((read_json(path) for path in found if path.is_file()), {})
    size, aspect = hf["vision_config"]["image_size"], config.get("image_aspect_ratio")
    kinds = {"pad": "LlavaImageProcessor", "anyres": "LlavaNextImageProcessor"}
    return {
        "image_processor_type": kinds.get(aspect, "CLIPImageProcessor"),
        "do_pad": aspect in kinds,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(theirs.get("image_mean", _CLIP_MEAN)),
        "image_std": list(theirs.get("image_std", _CLIP_STD)),
        **{name: hf[name] for name in ("image_grid_pinpoints",) if name in hf},
    }


def describe_tower(folder: Path, hf: Mapping[str, Any], source: Path) -> None:
    """Writes the config files that make a folder of the tower's weights a CLIP checkpoint."""
    write_json(folder / "config.json", {"architectures": ["CLIPVisionModel"], **hf["vision_config"]})
    if (source / "preprocessor_config.json").is_file():
        images = read_json(source / "preprocessor_config.json")
        plain = {name: value for name, value in images.items() if name not in ("do_pad", "image_grid_pinpoints")}
        plain["image_processor_type"] = "CLIPImageProcessor"
        write_json(folder / "preprocessor_config.json", plain)


def kept_config(folder: Path | None, dialect: names.Dialect) -> dict[str, Any]:
    """The original config.json of a model folder, for an export in the layout `dialect`.

    Raises:
      InputError: the model did not come from this layout.
    """
    if folder is None or not (folder / ORIGINAL / "config.json").is_file():
        raise InputError(f"dialect {dialect.name!r} needs a model that came from an original LLaVA; use another one")
    config = read_json(folder / ORIGINAL / "config.json")
    if dialect.name == "llava_original" and read_json(folder / SETTINGS)["dialect"] != dialect.name:
        config["unfreeze_mm_vision_tower"] = True  # LLaVA loads the tower that lies inside only then
    return config
