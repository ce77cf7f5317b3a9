"""LLaVA-1.5 and LLaVA-NeXT: a CLIP tower, a two-layer connector and a text model of the Llama family."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig, VisionConfig
from vlm_mu_jax.model.connectors import mlp
from vlm_mu_jax.model.families import llama, qwen, reading, texts
from vlm_mu_jax.model.image_plans import Tiled, Whole
from vlm_mu_jax.model.tensors import Dialect
from vlm_mu_jax.model.towers import clip

KINDS = ("llava", "llava_next")  # `model_type` in config.json

# transformers@configuration_llava_next.py: what a llava_next config without this field means
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

_NAMES = (*llama.NAMES, *mlp.NAMES, *clip.NAMES)

# The v4 spelling is what the released llava-hf checkpoints have and what every reader accepts.
DIALECTS = (
    Dialect(
        "llava_v4",
        _NAMES,
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.vision_model.",
        "multi_modal_projector.linear_1.",
        "multi_modal_projector.linear_2.",
        "image_newline",
    ),
    # transformers >= 5.6 saves CLIP without the `vision_model` level, the rest as before
    Dialect(
        "llava_v5",
        _NAMES,
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.",
        "multi_modal_projector.linear_1.",
        "multi_modal_projector.linear_2.",
        "image_newline",
    ),
    # module names of transformers >= 4.52, as written by tools that save `state_dict()` itself
    Dialect(
        "llava_modules",
        _NAMES,
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.vision_model.",
        "model.multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_2.",
        "model.image_newline",
    ),
    Dialect(
        "llava_modules_v5",
        _NAMES,
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.",
        "model.multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_2.",
        "model.image_newline",
    ),
    # haotian-liu/LLaVA itself: a Llama with a projector, see conversion/original.py
    Dialect(
        "llava_original",
        _NAMES,
        "model.",
        "lm_head.",
        "model.vision_tower.vision_tower.vision_model.",
        "model.mm_projector.0.",
        "model.mm_projector.2.",
        "model.image_newline",
    ),
    # the same with the tower in a folder of its own; what stands before the slash is no part of the key
    Dialect(
        "llava_original_split",
        _NAMES,
        "model.",
        "lm_head.",
        "vision_tower/vision_model.",
        "model.mm_projector.0.",
        "model.mm_projector.2.",
        "model.image_newline",
    ),
)


def clip_vision(
    *,
    pinpoints: tuple[tuple[int, int], ...] = (),
    projector_activation: str = "gelu",
    projector_bias: bool = True,
    **tower: Any,
) -> VisionConfig:
    """The vision side of a LLaVA.

    Args:
      pinpoints: (height, width) a picture may be tiled at (LLaVA-NeXT); () for none.
      tower: fields of `clip.Clip`.
    """
    one = clip.Clip(**tower)
    plan = Tiled(one.P, one.side, one.image_size, pinpoints) if pinpoints else Whole(one.P)
    return VisionConfig(one, mlp.Mlp(projector_activation, projector_bias, newline=bool(pinpoints)), plan)


def read(config: dict[str, Any]) -> LlavaConfig:
    """LLaVA-1.5 or LLaVA-NeXT."""
    text = config["text_config"]
    ids = {**text, **{k: v for k, v in config.items() if k.endswith("_token_id") and v is not None}}
    family = texts.family_of(text, (llama, qwen))
    # either level ties: transformers copies the text config's value upwards
    tied = any(part.get("tie_word_embeddings") for part in (config, text))
    return LlavaConfig(
        text=family.read_text({**text, "tie_word_embeddings": tied}),
        vision=_vision(config),
        image_token_id=config.get("image_token_id", config.get("image_token_index", 32000)),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(ids, **family.IDS),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    vision, layers = config["vision_config"], config.get("vision_feature_layer", -2)
    if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise InputError(
            f"config.json: vision tower {vision['model_type']!r} is not supported; LLaVA uses clip_vision_model"
        )
    return clip_vision(
        image_size=vision.get("image_size", 224),
        patch_size=vision.get("patch_size", 32),
        D=vision.get("hidden_size", 768),
        L=vision.get("num_hidden_layers", 12),
        N=vision.get("num_attention_heads", 12),
        F=vision.get("intermediate_size", 3072),
        norm_eps=vision.get("layer_norm_eps", 1e-5),
        activation=vision.get("hidden_act", "quick_gelu"),
        feature_layers=tuple(layers) if isinstance(layers, (list, tuple)) else (layers,),
        select=config.get("vision_feature_select_strategy", "default"),
        pinpoints=_pinpoints(config),
        projector_activation=config.get("projector_hidden_act", "gelu"),
        projector_bias=config.get("multimodal_projector_bias", True),
    )


def _pinpoints(config: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    if config["model_type"] != "llava_next":
        return ()
    if config.get("use_image_newline_parameter") is False:  # transformers' model has the newline all the same
        raise InputError("config.json: use_image_newline_parameter is false; LLaVA-NeXT without it is not supported")
    given = config.get("image_grid_pinpoints")
    if given is not None and not given:
        raise InputError("config.json: image_grid_pinpoints is empty; LLaVA-NeXT needs at least one resolution")
    return _PINPOINTS if given is None else tuple(tuple(sides) for sides in given)
