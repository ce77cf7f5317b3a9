"""LLaVA-1.5, LLaVA-NeXT and ViP-LLaVA: a CLIP or SigLIP tower, a two-layer connector, a Llama or Qwen text model."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, VisionConfig
from vlm_mu_jax.model.connectors import mlp
from vlm_mu_jax.model.families import llama, qwen, reading, texts
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.image_plans.tiled import Tiled
from vlm_mu_jax.model.image_plans.whole import Whole
from vlm_mu_jax.model.tensors import Dialect
from vlm_mu_jax.model.towers import clip, siglip, vit

KINDS = ("llava", "llava_next", "vipllava")  # `model_type` in config.json

# transformers@configuration_llava_next.py: what a llava_next config without this field means
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

# A tower's class, and what transformers means by a field of its config that is not there.
_BASE = {
    "image_size": 224,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_TOWERS: dict[str, tuple[type[vit.Vit], dict[str, Any]]] = {
    "clip_vision_model": (
        clip.Clip,
        _BASE | {"patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    ),
    "siglip_vision_model": (
        siglip.Siglip,
        _BASE | {"patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "vision_use_head": True},
    ),
}


def _always_resized(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("do_resize") is False:
        raise ValueError("do_resize false is not supported for LLaVA-NeXT, which always resizes")
    return fields


_SIGLIP = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}

IMAGE_PROCESSORS = (
    ImageProcessorKind("CLIPImageProcessor"),
    ImageProcessorKind("CLIPFeatureExtractor"),
    ImageProcessorKind("LlavaImageProcessor", pads_to_square=True),
    ImageProcessorKind("LlavaNextImageProcessor", fields=frozenset({"image_grid_pinpoints"}), plain=_always_resized),
    ImageProcessorKind("SiglipImageProcessor", defaults=_SIGLIP),
)

_NAMES = (*llama.NAMES, *mlp.NAMES, *clip.NAMES, *siglip.NAMES)

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
        "multi_modal_projector.",
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
        "multi_modal_projector.",
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
        "model.multi_modal_projector.",
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
        "model.multi_modal_projector.",
        modules=True,
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


def vision(tower: vit.Vit, connector: mlp.Mlp, pinpoints: tuple[tuple[int, int], ...] = ()) -> VisionConfig:
    """The vision side of a LLaVA."""
    plan = Tiled(tower.P, tower.side, tower.image_size, pinpoints) if pinpoints else Whole(tower.P)
    return VisionConfig(tower, connector, plan)


def read(config: dict[str, Any]) -> ModelConfig:
    """LLaVA-1.5 or LLaVA-NeXT."""
    text = config["text_config"]
    ids = reading.outer_ids(config, text)
    family = texts.family_of(text, (llama, qwen))
    # either level ties: transformers copies the text config's value upwards
    tied = any(part.get("tie_word_embeddings") for part in (config, text))
    return ModelConfig(
        text=family.read_text({**text, "tie_word_embeddings": tied}),
        vision=_vision(config),
        image_token_id=config.get("image_token_id", config.get("image_token_index", 32000)),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(ids, **family.IDS),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    if config["model_type"] == "vipllava":
        layers = config.get("vision_feature_layer", (-2, -5, -8, -11, 6))
        norm_eps = config.get("projector_layernorm_eps", 1e-5)
        connector = mlp.Mlp(config.get("projector_hidden_act", "gelu"), norm_eps=norm_eps)
        return vision(read_tower(config["vision_config"], layers, "default"), connector)
    pinpoints = _pinpoints(config)
    connector = mlp.Mlp(
        config.get("projector_hidden_act", "gelu"),
        config.get("multimodal_projector_bias", True),
        newline=bool(pinpoints),
    )
    layers, select = config.get("vision_feature_layer", -2), config.get("vision_feature_select_strategy", "default")
    return vision(read_tower(config["vision_config"], layers, select), connector, pinpoints)


def read_tower(config: dict[str, Any], layers: int | list[int] | tuple[int, ...], select: str) -> vit.Vit:
    """The tower of a `vision_config`.

    Args:
      config: the vision config.
      layers: hidden states that the connector reads.
      select: "default" or "full", see `vit.Vit`.

    Raises:
      InputError: a kind of tower that we do not have.
    """
    kind = config.get("model_type", "clip_vision_model")
    if kind not in _TOWERS:
        raise InputError(f"config.json: vision tower {kind!r} is not supported; use one of {', '.join(_TOWERS)}")
    tower, defaults = _TOWERS[kind]
    given = {**defaults, **{name: value for name, value in config.items() if value is not None}}
    head = {"head": bool(given["vision_use_head"])} if "vision_use_head" in defaults else {}
    return tower(
        image_size=given["image_size"],
        patch_size=given["patch_size"],
        D=given["hidden_size"],
        L=given["num_hidden_layers"],
        N=given["num_attention_heads"],
        F=given["intermediate_size"],
        norm_eps=given["layer_norm_eps"],
        activation=given["hidden_act"],
        feature_layers=tuple(layers) if isinstance(layers, (list, tuple)) else (layers,),
        select=select,
        **head,
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
