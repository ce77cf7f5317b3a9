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
_LLAVA = {"model_type": "llava", "vision_config": _CLIP_L_336, "image_token_index": 32000}
_QWEN2_7B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
_SO400M: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_GEMMA_WIDTHS: dict[str, dict[str, int]] = {
    "gemma-3-4b": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    "gemma-3-12b": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}
_GEMMA = {
    "model_type": "gemma3_text",
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    # google/gemma-3-4b-it, google/gemma-3-12b-it; the text model's other fields are transformers' defaults
    **{
        name: {
            "model_type": "gemma3",
            "text_config": {**_GEMMA, **widths},
            "vision_config": {**_SO400M, "image_size": 896, "vision_use_head": False},
        }
        for name, widths in _GEMMA_WIDTHS.items()
    },
    **{name: {**_LLAVA, "text_config": {**_VICUNA, **widths}} for name, widths in _WIDTHS.items()},
    # OpenGVLab/InternVL3-8B-hf
    "internvl3-8b": {
        "model_type": "internvl",
        "text_config": {**_QWEN2_7B, "vocab_size": 151674, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "vision_config": {"attention_bias": True},  # InternViT-300M: the other fields are transformers' defaults
        "tie_word_embeddings": False,
    },
    # llava-hf/llava-onevision-qwen2-7b-ov-hf: Qwen2's 152064 rows and two new ones, filled up to a multiple of 64
    "llava-onevision-7b": {
        "model_type": "llava_onevision",
        "text_config": {**_QWEN2_7B, "vocab_size": 152128},
        "vision_config": {**_SO400M, "image_size": 384, "num_hidden_layers": 26, "vision_use_head": False},
    },
    # HuggingFaceTB/SmolVLM2-2.2B-Instruct
    "smolvlm2-2.2b": {
        "model_type": "smolvlm",
        "text_config": {
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "max_position_embeddings": 8192,
            "rope_theta": 273768.0,
        },
        "vision_config": {**_SO400M, "image_size": 384},
        "scale_factor": 3,
        "image_token_id": 49190,
    },
    # Qwen/Qwen2.5-VL-7B-Instruct
    "qwen2.5-vl-7b": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            **{name: value for name, value in _QWEN2_7B.items() if name != "model_type"},
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
        "vision_config": {"hidden_size": 1280},  # the other fields are transformers' defaults
    },
    # Qwen/Qwen3-VL-8B-Instruct
    "qwen3-vl-8b": {
        "model_type": "qwen3_vl",
        "text_config": {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262144,
            "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        },
        "vision_config": {"out_hidden_size": 4096},  # the other fields are transformers' defaults
    },
}


def published(name: str) -> ModelConfig:
    """Configuration of a checkpoint as it is published, in bfloat16, by a short name such as "llava-1.5-7b".

    Raises:
      InputError: a name that is not known; the message lists those that are.
    """
    if name not in _CONFIGS:
        raise InputError(f"config.model.like: {name!r} is unknown; use one of {', '.join(_CONFIGS)}")
    return from_hf({**_CONFIGS[name], "dtype": "bfloat16"}, name)
