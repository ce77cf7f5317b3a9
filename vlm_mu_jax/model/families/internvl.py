"""InternVL 2.5, 3 and 3.5 as transformers has them: InternViT, pixel shuffle, tiles by aspect ratio, Qwen or Llama."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, VisionConfig
from vlm_mu_jax.model.connectors import shuffled_mlp
from vlm_mu_jax.model.connectors.mlp import Mlp
from vlm_mu_jax.model.families import llama, qwen, reading, texts
from vlm_mu_jax.model.image_plans.aspect import AspectTiles
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.tensors import Dialect
from vlm_mu_jax.model.towers import internvit

KINDS = ("internvl",)  # `model_type` in config.json
ELSEWHERE = {
    "internvl_chat": "it needs code of its own; use the checkpoint whose name ends in -hf (OpenGVLab/InternVL3-8B-hf)"
}

_NAMES = (*llama.NAMES, *shuffled_mlp.NAMES, *internvit.NAMES)
_MARKS = ("vision/class_11D",)
DIALECTS = (
    # what transformers saves, and what every reader accepts
    Dialect(
        "internvl",
        _NAMES,
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.",
        "multi_modal_projector.linear_1.",
        "multi_modal_projector.linear_2.",
        connector="multi_modal_projector.",
        marks=_MARKS,
    ),
    # module names of transformers >= 4.52
    Dialect(
        "internvl_modules",
        _NAMES,
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.",
        "model.multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_2.",
        connector="model.multi_modal_projector.",
        marks=_MARKS,
        modules=True,
    ),
)

# transformers@image_processing_pil_got_ocr2.py; `crop_to_patches` is read by nobody, see `AspectTiles.fitted`
IMAGE_PROCESSORS = (
    ImageProcessorKind(
        "GotOcr2ImageProcessor",
        defaults={"size": {"height": 384, "width": 384}, "do_center_crop": False},
        fields=frozenset({"crop_to_patches", "min_patches", "max_patches"}),
    ),
)

# What transformers means by a field that is not there.
_TEXT = {"model_type": "qwen2"}
_TOWER = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": "layer_norm",
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
    "attention_bias": False,
    "use_qk_norm": False,
    "use_mask_token": False,
}
_NORMS = ("layer_norm", "rms_norm")


def read(config: dict[str, Any]) -> ModelConfig:
    """InternVL, in the spellings of transformers 4.52 and later."""
    text = _TEXT | config["text_config"]
    family = texts.family_of(text, (llama, qwen))
    ids = reading.outer_ids(config, text)
    # The outer field is true unless a file says otherwise. Where they differ `conversion/source.py` asks the tensors.
    tied = config.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", False)
    return ModelConfig(
        text=family.read_text({**text, "tie_word_embeddings": tied}),
        vision=_vision(config),
        image_token_id=config.get("image_token_id", 151667),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(ids, **family.IDS),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    layer, select = config.get("vision_feature_layer", -1), config.get("vision_feature_select_strategy", "default")
    if type(layer) is not int:
        raise InputError(f"config.json: vision_feature_layer {layer!r} is not supported for InternVL; use one layer")
    if select != "default":
        raise InputError(f"config.json: vision_feature_select_strategy {select!r} is not supported for InternVL")
    tower = read_tower(config["vision_config"], layer)
    connector = shuffled_mlp.ShuffledMlp(
        _factor(config.get("downsample_ratio", 0.5), tower),
        Mlp(config.get("projector_hidden_act", "gelu"), norm_eps=1e-5),
    )
    return VisionConfig(tower, connector, AspectTiles(connector.tokens(tower.P), tower.image_size))


def read_tower(config: dict[str, Any], layer: int) -> internvit.InternVit:
    """The tower of a `vision_config`. layer: the hidden states that the connector reads."""
    given = {**_TOWER, **{name: value for name, value in config.items() if value is not None}}
    if given["norm_type"] not in _NORMS:
        raise InputError(f"config.json: norm_type {given['norm_type']!r} is not supported; use {' or '.join(_NORMS)}")
    return internvit.InternVit(
        image_size=_side(given["image_size"], "image_size"),
        patch_size=_side(given["patch_size"], "patch_size"),
        D=given["hidden_size"],
        L=given["num_hidden_layers"],
        N=given["num_attention_heads"],
        F=given["intermediate_size"],
        norm_eps=given["layer_norm_eps"],
        activation=given["hidden_act"],
        feature_layers=(layer,),
        qkv_bias=given["attention_bias"],
        qk_norm=given["use_qk_norm"],
        rms=given["norm_type"] == "rms_norm",
        positions=given["use_absolute_position_embeddings"],
        post_norm=not given["use_mean_pooling"],
        mask_token=given["use_mask_token"],
    )


def _side(value: Any, name: str) -> int:
    height, width = value if isinstance(value, list | tuple) else (value, value)
    if height != width:
        raise InputError(f"config.json: {name} {height} x {width} is not supported; only squares are")
    return height


def _factor(ratio: float, tower: internvit.InternVit) -> int:
    """Patches along one side of an image token."""
    factor = round(1 / ratio)
    if factor * ratio != 1 or tower.side % factor:
        raise InputError(
            f"config.json: downsample_ratio {ratio} does not part {tower.side} patches into blocks; restore the file"
        )
    return factor
