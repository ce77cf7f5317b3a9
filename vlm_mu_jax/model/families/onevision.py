"""LLaVA-OneVision: a SigLIP tower, LLaVA's connector, tiles up to anyres_max, a Qwen text model. Pictures, no video."""

import re
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, VisionConfig
from vlm_mu_jax.model.connectors.mlp import Mlp
from vlm_mu_jax.model.families import llama, llava, qwen, reading, texts
from vlm_mu_jax.model.image_plans.anyres_max import AnyresMax, Squared
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.image_plans.tiled import Tiled
from vlm_mu_jax.model.tensors import Dialect

KINDS = ("llava_onevision",)  # `model_type` in config.json
ELSEWHERE = {
    "llava_qwen": "it needs code of its own; use the checkpoint of llava-hf (llava-hf/llava-onevision-qwen2-7b-ov-hf)"
}
DIALECTS: tuple[Dialect, ...] = ()  # spelled as LLaVA: families/llava.py

# What transformers means by a field that is not there.
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]

# transformers@image_processing_pil_llava_onevision.py
IMAGE_PROCESSORS = (
    ImageProcessorKind(
        "LlavaOnevisionImageProcessor",
        defaults={
            "size": {"height": 384, "width": 384},
            "do_center_crop": False,
            "image_grid_pinpoints": _PINPOINTS,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
        },
        fields=frozenset({"image_grid_pinpoints"}),
    ),
)


def read(config: dict[str, Any]) -> ModelConfig:
    """LLaVA-OneVision, in the spellings of transformers 4.45 and later."""
    text = {"model_type": "qwen2", **config["text_config"]}
    family = texts.family_of(text, (llama, qwen))
    tied = any(part.get("tie_word_embeddings") for part in (config, text))
    return ModelConfig(
        text=family.read_text({**text, "tie_word_embeddings": tied}),
        vision=_vision(config),
        image_token_id=config.get("image_token_id", config.get("image_token_index", 151646)),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(reading.outer_ids(config, text), **family.IDS),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    if config.get("use_image_newline_parameter") is False:  # transformers' model has the newline all the same
        raise InputError("config.json: use_image_newline_parameter is false; LLaVA-OneVision without is not supported")
    select = config.get("vision_feature_select_strategy", "full")
    if select != "full":
        raise InputError(f"config.json: vision_feature_select_strategy {select!r} is not supported; use full")
    given = {"model_type": "siglip_vision_model", **(config.get("vision_config") or _TOWER)}
    tower = llava.read_tower(given, config.get("vision_feature_layer", -1), select)
    bias = config.get("multimodal_projector_bias", True)
    connector = Mlp(config.get("projector_hidden_act", "gelu"), bias, newline=True)
    pinpoints = config.get("image_grid_pinpoints") or _PINPOINTS
    tiled = Tiled(tower.P, tower.side, tower.image_size, tuple(tuple(sides) for sides in pinpoints))
    return VisionConfig(tower, connector, AnyresMax(tiled, _most(config)), Squared(tower.P))


def _most(config: dict[str, Any]) -> int:
    ratio = config.get("vision_aspect_ratio", "anyres_max_9")
    found = re.fullmatch(r"anyres_max_(\d+)", str(ratio))
    if found is None:
        raise InputError(f"config.json: vision_aspect_ratio {ratio!r} is not supported; only anyres_max_ and a number")
    return int(found[1])
