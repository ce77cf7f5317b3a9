"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL (dense), for pictures: a tower for any size, a merger, three-axis positions."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, TextConfig, VisionConfig
from vlm_mu_jax.model.connectors.merger import Merger
from vlm_mu_jax.model.families import llama, qwen, reading
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.image_plans.patches import Patches
from vlm_mu_jax.model.tensors import FLAT, KERNEL, LINEAR, MERGE, SAME, Dialect, Row
from vlm_mu_jax.model.towers.patch_vit import PatchVit

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # `model_type` in config.json

_TOWER = (
    Row("{vision}patch_embed.proj.weight", "vision/patch_CTHWD", KERNEL),
    Row("{vision}blocks.{l}.norm1.weight", "vision/layers/norm1_scale_LD", SAME),
    Row("{vision}blocks.{l}.norm1.bias", "vision/layers/norm1_bias_LD", SAME),
    Row("{vision}blocks.{l}.attn.qkv.weight", "vision/layers/wqkv_LDCNH", LINEAR),
    Row("{vision}blocks.{l}.attn.qkv.bias", "vision/layers/bqkv_LCNH", FLAT),
    Row("{vision}blocks.{l}.attn.proj.weight", "vision/layers/wo_LNHD", MERGE),
    Row("{vision}blocks.{l}.attn.proj.bias", "vision/layers/bo_LD", SAME),
    Row("{vision}blocks.{l}.norm2.weight", "vision/layers/norm2_scale_LD", SAME),
    Row("{vision}blocks.{l}.norm2.bias", "vision/layers/norm2_bias_LD", SAME),
)
_MERGER = (
    Row("{vision}merger.ln_q.weight", "projector/norm_scale_E", SAME),
    Row("{vision}merger.ln_q.bias", "projector/norm_bias_E", SAME),
    Row("{vision}merger.mlp.0.weight", "projector/w1_UU", LINEAR),
    Row("{vision}merger.mlp.0.bias", "projector/b1_U", SAME),
    Row("{vision}merger.mlp.2.weight", "projector/w2_UD", LINEAR),
    Row("{vision}merger.mlp.2.bias", "projector/b2_D", SAME),
)
_DEEP = "{vision}deepstack_merger_list.{l}."
_MERGERS_3 = (
    Row("{vision}merger.norm.weight", "projector/norm_scale_E", SAME),
    Row("{vision}merger.norm.bias", "projector/norm_bias_E", SAME),
    Row("{vision}merger.linear_fc1.weight", "projector/w1_UU", LINEAR),
    Row("{vision}merger.linear_fc1.bias", "projector/b1_U", SAME),
    Row("{vision}merger.linear_fc2.weight", "projector/w2_UD", LINEAR),
    Row("{vision}merger.linear_fc2.bias", "projector/b2_D", SAME),
    Row(_DEEP + "norm.weight", "projector/deep/norm_scale_LU", SAME),
    Row(_DEEP + "norm.bias", "projector/deep/norm_bias_LU", SAME),
    Row(_DEEP + "linear_fc1.weight", "projector/deep/w1_LUU", LINEAR),
    Row(_DEEP + "linear_fc1.bias", "projector/deep/b1_LU", SAME),
    Row(_DEEP + "linear_fc2.weight", "projector/deep/w2_LUD", LINEAR),
    Row(_DEEP + "linear_fc2.bias", "projector/deep/b2_LD", SAME),
    Row("{vision}patch_embed.proj.bias", "vision/patch_bias_D", SAME),
    Row("{vision}pos_embed.weight", "vision/position_QD", SAME),
)


def _mlp(**maps: str) -> tuple[Row, ...]:
    """The tower's MLP. maps: our name of a linear map -> the file's."""
    ends = {"gate": ("LDF", "LF"), "up": ("LDF", "LF"), "down": ("LFD", "LD")}
    return tuple(
        Row(f"{{vision}}blocks.{{l}}.mlp.{key}.{what}", f"vision/layers/{letter}{name}_{end}", layout)
        for name, key in maps.items()
        for what, letter, end, layout in zip(("weight", "bias"), "wb", ends[name], (LINEAR, SAME), strict=True)
    )


_NAMES_2 = (*llama.NAMES, *_TOWER, *_MERGER, *_mlp(up="fc1", down="fc2"))
_NAMES_25 = (*llama.NAMES, *_TOWER, *_MERGER, *_mlp(gate="gate_proj", up="up_proj", down="down_proj"))
_NAMES_3 = (*llama.NAMES, *_TOWER, *_MERGERS_3, *_mlp(up="linear_fc1", down="linear_fc2"))
_MARKS_2 = ("vision/layers/wqkv_LDCNH", "decoder/layers/bq_LNH", "projector/norm_bias_E")
_MARKS_25 = ("vision/layers/wqkv_LDCNH", "decoder/layers/bq_LNH", "vision/layers/wgate_LDF")
_MARKS_3 = ("vision/layers/wqkv_LDCNH", "vision/position_QD")

# Files of Qwen2-VL and Qwen2.5-VL keep the names of their first classes; later tools write those of the modules.
_V5 = ("model.language_model.", "lm_head.", "model.visual.")
DIALECTS = (
    Dialect("qwen2_vl", _NAMES_2, "model.", "lm_head.", "visual.", marks=_MARKS_2),
    Dialect("qwen2_vl_modules", _NAMES_2, *_V5, marks=_MARKS_2, modules=True),
    Dialect("qwen2_5_vl", _NAMES_25, "model.", "lm_head.", "visual.", marks=_MARKS_25),
    Dialect("qwen2_5_vl_modules", _NAMES_25, *_V5, marks=_MARKS_25, modules=True),
    Dialect("qwen3_vl_modules", _NAMES_3, *_V5, marks=_MARKS_3, modules=True),
)

# What transformers means by a field that is not there.
_TEXT_2 = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 29568,
    "max_position_embeddings": 32768,
    "max_window_layers": 80,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}
_TEXT_3 = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "intermediate_size": 22016,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
}
_VISION = {
    "in_channels": 3,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "depth": 32,
    "hidden_size": 3584,
}
_VISION_2 = {"embed_dim": 1280, "hidden_act": "quick_gelu", "mlp_ratio": 4}
_VISION_25 = {
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": (7, 15, 23, 31),
}
_VISION_3 = {
    "patch_size": 16,
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": (8, 16, 24),
}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Of one patch: the picture is scaled before it is cut (`Patches.scaled`)."""
    if fields.get("do_resize") is False:
        raise ValueError("do_resize false is not supported; the tower reads whole patches only")
    side = fields["patch_size"]
    return fields | {"size": {"height": side, "width": side}, "do_center_crop": False}


IMAGE_PROCESSORS = (
    ImageProcessorKind(
        "Qwen2VLImageProcessor",
        defaults={
            "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        fields=frozenset({"min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"}),
        plain=_plain,
        drawn=448,
    ),
)


def read(config: dict[str, Any]) -> ModelConfig:
    """A whole checkpoint. Before transformers 4.52 the decoder's fields stood beside the others."""
    kind, given = config["model_type"], config.get("text_config") or config
    tower, width = _tower(kind, config.get("vision_config") or {})
    text = dataclasses.replace(_text(kind, given | {"tie_word_embeddings": _tied(config)}), deep=len(tower.deep))
    if width != text.D:
        raise InputError(f"config.json: the tower's image tokens have {width} values, the text model's {text.D}")
    if text.deep > text.L:
        raise InputError(f"config.json: deepstack_visual_indexes {list(tower.deep)} needs more than {text.L} layers")
    merger = Merger(tower.merge, rms=tower.rms, deep=text.deep)
    ends = {"bos": None, "eos": None} if kind == "qwen3_vl" else {"bos": 151643, "eos": 151645}
    return ModelConfig(
        text=text,
        vision=VisionConfig(tower, merger, Patches(tower.patch_size, tower.merge, frames=tower.frames)),
        image_token_id=config.get("image_token_id", 151655),
        **reading.token_ids(config | given, **ends),
        dtype=reading.dtype(given | {name: config[name] for name in ("dtype", "torch_dtype") if config.get(name)}),
    )


def _tied(config: dict[str, Any]) -> bool:
    return any(part.get("tie_word_embeddings") for part in (config, config.get("text_config") or {}))


def _text(kind: str, given: dict[str, Any]) -> TextConfig:
    """The decoder."""
    defaults = _TEXT_3 if kind == "qwen3_vl" else _TEXT_2
    given = defaults | {name: value for name, value in given.items() if value is not None}
    rope = dict(reading.rope(given))
    rope.setdefault("rope_theta", given["rope_theta"])
    interleaved = kind == "qwen3_vl"
    if rope.pop("mrope_interleaved", interleaved) is not interleaved:
        raise InputError(f"config.json: mrope_interleaved {not interleaved} is not supported for {kind}")
    sections = rope.pop("mrope_section", (24, 20, 20) if interleaved else (16, 24, 24))
    if rope.get("rope_type", rope.get("type")) in ("mrope", None):
        rope["rope_type"] = "default"
    given["rope_parameters"] = rope
    if kind == "qwen3_vl":
        text = reading.decoder(given, defaults, qk_norm=True)
    else:
        text = reading.decoder(given, defaults, attention_bias=False, qkv_bias=True, **qwen.windows(given))
    return dataclasses.replace(text, rope_axes=_axes(sections, text.H // 2, interleaved))


def _axes(sections: Sequence[int], half: int, interleaved: bool) -> tuple[int, ...]:
    """The axis of each rotary frequency. sections: frequencies of each axis, in three runs or every third one."""
    sections = tuple(sections)
    if len(sections) != 3 or any(type(n) is not int or n < 0 for n in sections) or sum(sections) != half:
        raise InputError(f"config.json: mrope_section {list(sections)} is not three numbers that make {half}")
    if not interleaved:
        return sum(((axis,) * n for axis, n in enumerate(sections)), ())
    return tuple(i % 3 if i < 3 * sections[i % 3] else 0 for i in range(half))


def _tower(kind: str, given: dict[str, Any]) -> tuple[PatchVit, int]:
    """The tower, and the width of the image tokens that are made of its states."""
    own = {"qwen2_vl": _VISION_2, "qwen2_5_vl": _VISION_25, "qwen3_vl": _VISION_3}[kind]
    given = _VISION | own | {name: value for name, value in given.items() if value is not None}
    rope = given.get("rope_parameters") or {}
    if rope.get("rope_type", "axial") != "axial":
        raise InputError(f"config.json: vision rope_type {rope['rope_type']!r} is not supported; only axial is")
    if given["in_channels"] != 3:
        raise InputError(f"config.json: vision in_channels {given['in_channels']!r} is not supported; pictures have 3")
    common = {
        "patch_size": given["patch_size"],
        "L": given["depth"],
        "N": given["num_heads"],
        "merge": given["spatial_merge_size"],
        "frames": given["temporal_patch_size"],
        "activation": reading.activation(given["hidden_act"]),
        "rope_theta": float(rope.get("rope_theta") or 10000.0),
    }
    if kind == "qwen2_vl":
        D = given["embed_dim"]
        return PatchVit(D=D, F=int(D * given["mlp_ratio"]), **common), given["hidden_size"]
    common |= {"D": given["hidden_size"], "F": given["intermediate_size"]}
    if kind == "qwen2_5_vl":
        window = given["window_size"] // given["spatial_merge_size"] // given["patch_size"]
        whole = tuple(given["fullatt_block_indexes"])
        return PatchVit(rms=True, gated=True, window=window, whole=whole, **common), given["out_hidden_size"]
    side = math.isqrt(given["num_position_embeddings"])
    if side**2 != given["num_position_embeddings"]:
        raise InputError(f"config.json: num_position_embeddings {given['num_position_embeddings']} is no square")
    deep = tuple(given["deepstack_visual_indexes"])
    return PatchVit(patch_bias=True, positions=side, deep=deep, **common), given["out_hidden_size"]
