"""Sizes of published checkpoints, so that a run can be planned before their weights are here."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf

_CLIP_L_336: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_VICUNA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32064,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}
_WIDTHS: dict[str, dict[str, int]] = {
    "llava-1.5-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llava-1.5-13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}


def published(name: str) -> ModelConfig:
    """Configuration of a checkpoint as llava-hf publishes it, in bfloat16: "llava-1.5-7b" or "llava-1.5-13b"."""
    if name not in _WIDTHS:
        raise InputError(f"config.model.like: {name!r} is unknown; use one of {', '.join(_WIDTHS)}")
    text = {**_VICUNA, **_WIDTHS[name]}
    config = {"model_type": "llava", "text_config": text, "vision_config": _CLIP_L_336, "image_token_index": 32000}
    return from_hf({**config, "dtype": "bfloat16"}, name)
