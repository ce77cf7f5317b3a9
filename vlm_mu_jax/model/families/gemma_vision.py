"""Gemma 3 with images: a SigLIP tower, pooling, a Gemma 3 text model that reads the tokens of an image both ways."""

import dataclasses
import math
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, VisionConfig
from vlm_mu_jax.model.connectors import pooled_linear
from vlm_mu_jax.model.families import gemma, llava, reading
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.image_plans.whole import Whole
from vlm_mu_jax.model.tensors import Dialect
from vlm_mu_jax.model.towers import siglip, vit

KINDS = ("gemma3",)  # `model_type` in config.json

_NAMES = (*gemma.NAMES, *pooled_linear.NAMES, *vit.NAMES, *siglip.NAMES)
_MARKS = ("projector/norm_scale_E", "decoder/layers/attn_post_norm_LD")


DIALECTS = (
    # google/gemma-3-4b-it and everything saved by transformers < 5.6, which wrote SigLIP with one level more
    Dialect(
        "gemma3_v4",
        _NAMES,
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.vision_model.",
        connector="multi_modal_projector.",
        marks=_MARKS,
    ),
    Dialect(
        "gemma3_v5",
        _NAMES,
        "language_model.model.",
        "language_model.lm_head.",
        "vision_tower.",
        connector="multi_modal_projector.",
        marks=_MARKS,
    ),
    # module names of transformers >= 4.52
    Dialect(
        "gemma3_modules",
        _NAMES,
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.vision_model.",
        connector="model.multi_modal_projector.",
        marks=_MARKS,
    ),
    Dialect(
        "gemma3_modules_v5",
        _NAMES,
        "model.language_model.",
        "lm_head.",
        "model.vision_tower.",
        connector="model.multi_modal_projector.",
        marks=_MARKS,
        modules=True,
    ),
)

# transformers@image_processing_pil_gemma3.py. Pan and scan is off, whatever the file says: so Gemma3Processor has it.
IMAGE_PROCESSORS = (
    ImageProcessorKind(
        "Gemma3ImageProcessor",
        defaults={
            "size": {"height": 224, "width": 224},
            "do_center_crop": False,
            "resample": 2,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        fields=frozenset(
            {
                "do_pan_and_scan",
                "pan_and_scan_min_crop_size",
                "pan_and_scan_max_num_crops",
                "pan_and_scan_min_ratio_to_activate",
            }
        ),
    ),
)


def read(config: dict[str, Any]) -> ModelConfig:
    """Gemma 3 of 4B and more, in the spellings of transformers 4.50 and later."""
    text = config["text_config"]
    if text.get("model_type", "gemma3_text") not in gemma.KINDS:
        raise InputError(f"config.json: language model {text['model_type']!r} is not supported for Gemma 3")
    ids = reading.outer_ids(config, text)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    vision = _vision(config)
    decoder = gemma.read_text({**text, "tie_word_embeddings": tied})
    return ModelConfig(
        text=dataclasses.replace(decoder, image_run=vision.P),
        vision=vision,
        image_token_id=config.get("image_token_id", config.get("image_token_index", 262144)),
        dtype=reading.dtype({**text, **config}),
        **reading.token_ids(ids, bos=2, eos=1),
    )


def _vision(config: dict[str, Any]) -> VisionConfig:
    given = {"model_type": "siglip_vision_model", **config["vision_config"]}
    tower = dataclasses.replace(llava.read_tower(given, -1, "full"), post_norm=True)
    count = config.get("mm_tokens_per_image", 256)
    side = math.isqrt(count) if type(count) is int and count > 0 else 0
    if not side or side * side != count or tower.side % side:
        raise InputError(
            f"config.json: mm_tokens_per_image {count!r} does not part {tower.side} x {tower.side} patches into squares"
        )
    connector = pooled_linear.PooledLinear(tower.side // side, tower.norm_eps)
    mark = "<start_of_image>"
    plan = Whole(connector.tokens(tower.P), before=f"\n\n{mark}", after="<end_of_image>\n\n", mark=mark)
    return VisionConfig(tower, connector, plan)
