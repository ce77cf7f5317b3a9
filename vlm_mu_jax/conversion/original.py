"""The layout of haotian-liu/LLaVA itself, as a LLaVA-HF checkpoint and back.

A model in this layout is a Llama with a projector (`model.mm_projector.0`, `.2`). The CLIP tower lies inside
(`model.vision_tower.vision_tower.vision_model`) or in a folder of its own. The id -200, which no vocabulary has, marks
an image. The rest of the product expects what llava-hf made of it: an `<image>` token, a `<pad>` token, and a
vocabulary rounded up to a multiple of 64 (transformers@convert_llava_weights_to_hf.py: 32000 -> 32064).

The rows added to the embedding and the head are the mean of the others, where llava-hf draws them at random. The logit
of a new token is then the mean of all logits, so it can never be the likeliest one. By Jensen's inequality it moves no
log-probability by more than log(1 + new / old), which is 0.002 for 64 new tokens. Logits of old tokens do not change.
The tokenizer and the other files are in original_files.py.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.conversion import names
from vlm_mu_jax.conversion.overlay import Overlay, Tensors
from vlm_mu_jax.conversion.tensor_files import TensorInfo
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json

TOWER = "vision_tower"  # label of the second folder
IMAGE, PAD = "<image>", "<pad>"
_EMBEDDING, _HEAD = "decoder/embed_VD", "decoder/head_DV"
_MULTIPLE = 64
LANGUAGE_MODELS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
_TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "attention_dropout",
    "mlp_bias",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pretraining_tp",
    "use_cache",
    "torch_dtype",
    "dtype",
)
# Towers that LLaVA's configs name without describing them (config.json of the same name on the hub).
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
_TOWERS = {
    "clip-vit-large-patch14": {**_LARGE, "image_size": 224},
    "clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
}


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of this layout: flat, with the vision tower named in it."""
    return "text_config" not in config and "mm_vision_tower" in config


def check(config: Mapping[str, Any], source: str) -> None:
    """Refuses relatives of LLaVA-1.5 and 1.6 that compute something else.

    Raises:
      InputError: the config has such settings. The message names all of them.
    """
    problems = []
    if config.get("model_type") not in LANGUAGE_MODELS:
        problems.append(f"model_type {config.get('model_type')!r} (only Llama and Mistral language models)")
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        old = ", as in LLaVA-1.0" if projector == "linear" else ""
        problems.append(f"mm_projector_type {projector!r}{old} (only mlp2x_gelu, the projector of LLaVA-1.5 and 1.6)")
    if config.get("mm_use_im_start_end"):
        problems.append("mm_use_im_start_end (images between <im_start> and <im_end>, as in LLaVA-1.0)")
    if config.get("mm_resampler_type"):
        problems.append(f"mm_resampler_type {config['mm_resampler_type']!r}")
    if config.get("mm_vision_select_feature", "patch") not in ("patch", "cls_patch"):
        problems.append(f"mm_vision_select_feature {config['mm_vision_select_feature']!r}")
    aspect = config.get("image_aspect_ratio")
    if aspect not in (None, "pad", "square", "anyres"):
        problems.append(f"image_aspect_ratio {aspect!r} (only pad, square and anyres)")
    if aspect == "anyres" and config.get("mm_patch_merge_type") != "spatial_unpad":
        problems.append(f"mm_patch_merge_type {config.get('mm_patch_merge_type')!r} with anyres (only spatial_unpad)")
    if aspect == "anyres" and not isinstance(config.get("image_grid_pinpoints"), list):
        problems.append(f"image_grid_pinpoints {config.get('image_grid_pinpoints')!r} (only a list of [width, height])")
    if config.get("s2"):
        problems.append("s2 (several image scales)")
    if problems:
        raise InputError(f"{source}: not supported: {'; '.join(problems)}; use a LLaVA-1.5 or 1.6 checkpoint")


def vision_config(config: Mapping[str, Any], tower: Path | None, source: str) -> dict[str, Any]:
    """CLIP's config, from the tower's folder or else from the tower's name.

    Raises:
      InputError: the tower is no CLIP, or neither folder nor name describes it.
    """
    if tower is not None:
        found = read_json(tower / "config.json")
        found = found.get("vision_config", found) if found.get("model_type") == "clip" else found
        if found.get("model_type", "clip_vision_model") != "clip_vision_model":
            raise InputError(f"{tower}: a {found['model_type']!r} model; --vision_tower takes a CLIP checkpoint")
        return {**found, "model_type": "clip_vision_model"}
    name = str(config["mm_vision_tower"])
    known = _TOWERS.get(name.rstrip("/").rsplit("/", 1)[-1])
    if known is None:
        raise InputError(f"{source}: its vision tower {name} is not described there; give its folder: --vision_tower")
    return {"model_type": "clip_vision_model", **known}


def hf_config(
    config: Mapping[str, Any], vision: Mapping[str, Any], tokenizer: Any | None, source: str
) -> dict[str, Any]:
    """The config.json that llava-hf would have written.

    Args:
      config: the original one.
      vision: see `vision_config`.
      tokenizer: see `read_tokenizer`. Without one, the new tokens get the first free ids.
      source: the config's name, for messages.
    """
    try:
        size = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: vocab_size is missing or no number; restore the file") from error
    image_id, pad_id = size, size + 1
    if tokenizer is not None:
        image_id, pad_id = tokenizer.convert_tokens_to_ids([IMAGE, PAD])
    text = {name: config[name] for name in _TEXT_FIELDS if name in config}
    return {
        **_kind(config),
        "image_token_index": image_id,
        "pad_token_id": pad_id,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if _keeps_class(config) else "default",
        **{name: config[name] for name in ("torch_dtype", "dtype") if name in config},
        "text_config": {
            **text,
            "model_type": LANGUAGE_MODELS[config["model_type"]],
            "pad_token_id": pad_id,
            "vocab_size": vocabulary(size, max(image_id, pad_id) + 1),
        },
        "vision_config": dict(vision),
    }


def _kind(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that tell LLaVA-1.5 from 1.6 (LLaVA-NeXT).

    Resolutions are (width, height) in the original config and (height, width) in llava-hf's.
    """
    if config.get("image_aspect_ratio") != "anyres":
        return {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    return {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_grid_pinpoints": [[height, width] for width, height in config["image_grid_pinpoints"]],
        "use_image_newline_parameter": True,
    }


def _keeps_class(config: Mapping[str, Any]) -> bool:
    return config.get("mm_vision_select_feature", "patch") == "cls_patch"


def vocabulary(size: int, needed: int) -> int:
    """Rows of an embedding that holds `needed` tokens: `size` if they fit, else the next multiple of 64."""
    return size if needed <= size else -(-needed // _MULTIPLE) * _MULTIPLE


def has_tower(files: Tensors) -> bool:
    """Whether the tower lies inside the checkpoint. That tower may have been trained, so it wins over any other."""
    return any(key.startswith(names.DIALECTS["llava_original"].vision) for key in files.tensors)


def with_tower(files: Tensors, tower: Tensors | None, config: Mapping[str, Any]) -> Tensors:
    """The language model's files together with the tower's tensors, whose keys begin with `vision_tower/`.

    Raises:
      InputError: no tower is given.
    """
    if tower is None:
        fetch = f"fetch {config['mm_vision_tower']} and give its folder: --vision_tower"
        raise InputError(f"{files.folder}: holds no vision tower; {fetch}")
    outside = names.DIALECTS["llava_original_split"].vision
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in tower.tensors) else ""
    found = {
        outside + key.removeprefix(prefix): key
        for key in tower.tensors
        if key.startswith(prefix) and not names.is_clip_text(key)
    }
    problems = [
        f"{TOWER}/{key} is not used by this kind of model"
        for key in sorted(tower.tensors.keys() - set(found.values()))
        if not names.is_clip_text(key)
    ]
    headers = {key: tower.tensors[theirs] for key, theirs in found.items()}
    return Overlay(files, headers, lambda key: tower.read(found[key]), [*tower.problems, *problems], [(TOWER, tower)])


def with_rows(files: Tensors, size: int) -> Tensors:
    """The files with embedding and head grown to `size` rows. The new rows are the mean of the others."""
    dialect = names.DIALECTS["llava_original"]
    grown = {}
    for key in (dialect.text + "embed_tokens.weight", dialect.head + "weight"):
        info = files.tensors.get(key)
        if info is not None and len(info.shape) == 2 and info.shape[0] < size:
            grown[key] = TensorInfo(info.file, (size, info.shape[1]), info.dtype)
    return Overlay(files, grown, lambda key: grow(files.read(key), size)) if grown else files


def grow(rows_VD: np.ndarray, size: int) -> np.ndarray:
    """[V, D] -> [size, D] in the same dtype. The new rows are the mean of the others."""
    mean_D = rows_VD.mean(axis=0, dtype=np.float64)
    grown = np.empty((size, rows_VD.shape[1]), rows_VD.dtype)
    grown[: len(rows_VD)], grown[len(rows_VD) :] = rows_VD, mean_D.astype(rows_VD.dtype)
    return grown


def without_rows(slots: Iterable[names.Slot], size: int) -> list[names.Slot]:
    """The tensors of an export whose embedding and head have `size` rows: those added for new tokens are cut off."""
    cut = {_EMBEDDING: lambda shape: (size, shape[1]), _HEAD: lambda shape: (shape[0], size)}
    return [dataclasses.replace(slot, shape=cut.get(slot.path, tuple)(slot.shape)) for slot in slots]


def reader_without_rows(
    read: Callable[..., np.ndarray], size: int, nbytes: Mapping[str, int]
) -> Callable[..., np.ndarray]:
    """`read(path, layer, buffer)` of an export with the rows that `without_rows` keeps.

    Args:
      read: reads a tensor with all of its rows.
      size: rows that are kept.
      nbytes: path -> bytes of the tensor with all of its rows.
    """

    def cut(path: str, layer: int | None, buffer: np.ndarray) -> np.ndarray:
        if path not in (_EMBEDDING, _HEAD):
            return read(path, layer, buffer)
        whole = read(path, layer, np.empty(nbytes[path], np.uint8))  # the buffer may be too small for all rows
        return whole[:size] if path == _EMBEDDING else whole[:, :size]

    return cut


def is_dialect(dialect: names.Dialect) -> bool:
    """Whether the dialect is one of the two layouts of haotian-liu/LLaVA."""
    return dialect.linear_1 == names.DIALECTS["llava_original"].linear_1
