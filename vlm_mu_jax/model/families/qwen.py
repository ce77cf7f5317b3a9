"""Qwen2, Qwen2.5 and Qwen3 (dense text models): Llama's block with biases (2) or norms (3) of queries and keys."""

from typing import Any

from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.families import reading
from vlm_mu_jax.model.tensors import Dialect

KINDS = ("qwen2", "qwen3")  # `model_type` in config.json
DIALECTS: tuple[Dialect, ...] = ()  # spelled as Llama: families/llama.py

# What transformers means by a field that is not there.
_DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
IDS = {"bos": None, "eos": None}


def read(config: dict[str, Any]) -> ModelConfig:
    """A whole text-only checkpoint."""
    return ModelConfig(text=read_text(config), **reading.token_ids(config, **IDS), dtype=reading.dtype(config))


def read_text(config: dict[str, Any]) -> TextConfig:
    """The decoder; also as `text_config` of a vision-language model."""
    fields = windows(config)
    if config["model_type"] == "qwen2":
        return reading.decoder(config, _DEFAULTS, attention_bias=False, qkv_bias=True, **fields)
    return reading.decoder(config, _DEFAULTS | {"head_dim": 128}, qk_norm=True, **fields)


def windows(config: dict[str, Any]) -> dict[str, Any]:
    """Layers from `max_window_layers` on have the window, where it is used at all."""
    depth, first = config.get("num_hidden_layers", _DEFAULTS["num_hidden_layers"]), config.get("max_window_layers", 28)
    if not config.get("use_sliding_window"):
        return {"sliding_window": None}
    types = config.get("layer_types")
    if types is None:
        types = ["sliding_attention" if layer >= first else "full_attention" for layer in range(min(depth, 10_000))]
    return reading.windows(types, config.get("sliding_window", 4096))
