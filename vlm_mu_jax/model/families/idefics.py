"""Idefics3, SmolVLM and SmolVLM2: a SigLIP tower, pixel shuffle, tiles with row and column, a Llama text model."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, VisionConfig
from vlm_mu_jax.model.connectors import shuffled_linear
from vlm_mu_jax.model.families import llama, reading, texts
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.image_plans.split import SplitTiles, plain_fields
from vlm_mu_jax.model.tensors import Dialect
from vlm_mu_jax.model.towers import siglip, vit

KINDS = ("idefics3", "smolvlm")  # `model_type` in config.json

_NAMES = (*llama.NAMES, *shuffled_linear.NAMES, *vit.NAMES, *siglip.NAMES)
DIALECTS = (
    Dialect(
        "idefics3",
        _NAMES,
        "model.text_model.",
        "lm_head.",
        "model.vision_model.",
        connector="model.connector.",
        marks=("projector/w_ED", "vision/patch_bias_D"),
        modules=True,
    ),
)

# transformers@image_processing_pil_idefics3.py: what a field means that is not there
_IMAGES = {
    "size": {"longest_edge": 4 * 364},
    "max_image_size": {"longest_edge": 364},
    "resample": 1,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
_FIELDS = frozenset({"max_image_size", "do_image_splitting", "return_row_col_info", "video_sampling"})
IMAGE_PROCESSORS = tuple(
    ImageProcessorKind(f"{name}ImageProcessor", defaults=_IMAGES, fields=_FIELDS, plain=plain_fields)
    for name in ("Idefics3", "SmolVLM")
)

# What transformers means by a field that is not there.
_TEXT = {"model_type": "llama", "rms_norm_eps": 1e-5}
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}

# Patches along a side for which float32 moves positions (Idefics3VisionEmbeddings); published are 26, 27 and 32.
_MOVED = (19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50, 54, 55, 58, 59, 61, 62)


def read(config: dict[str, Any]) -> ModelConfig:
    """Idefics3, SmolVLM or SmolVLM2."""
    text = _TEXT | config["text_config"]
    family = texts.family_of(text, (llama,))
    ids = reading.outer_ids(config, text)
    tied = any(part.get("tie_word_embeddings") for part in (config, text))
    return ModelConfig(
        text=family.read_text({**text, "tie_word_embeddings": tied}),
        vision=_vision(config),
        image_token_id=config.get("image_token_id", 128257),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(ids, **family.IDS),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    tower, factor = _tower(config["vision_config"]), config.get("scale_factor", 2)
    if type(factor) is not int or factor < 1 or tower.side % factor:
        raise InputError(f"config.json: scale_factor {factor!r} does not divide the {tower.side} patches of a side")
    connector = shuffled_linear.ShuffledLinear(factor)
    return VisionConfig(
        tower, connector, SplitTiles(connector.tokens(tower.P), tower.image_size, longest=4 * tower.image_size)
    )


def _tower(config: dict[str, Any]) -> siglip.Siglip:
    """SigLIP with the position of each patch looked up by where it lies in the image. Encoded images are squares of the
    full size, so that is its own position."""
    given = {**_TOWER, **{name: value for name, value in config.items() if value is not None}}
    size, patch = given["image_size"], given["patch_size"]
    if type(size) is not int or type(patch) is not int:
        raise InputError(f"config.json: image_size {size!r} and patch_size {patch!r} must be single numbers")
    if patch > 0 and size // patch in _MOVED:
        raise InputError(
            f"config.json: {size // patch} patches along a side are not supported; transformers rounds the positions of"
            " some of them to their neighbours"
        )
    return siglip.Siglip(
        image_size=size,
        patch_size=patch,
        D=given["hidden_size"],
        L=given["num_hidden_layers"],
        N=given["num_attention_heads"],
        F=given["intermediate_size"],
        norm_eps=given["layer_norm_eps"],
        activation=given["hidden_act"],
        feature_layers=(-1,),
        select="full",
        head=False,
        post_norm=True,
    )
