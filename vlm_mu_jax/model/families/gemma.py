"""Gemma 3 (text): four norms a block that scale by 1 + w, local and global layers with two rope bases."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.families import llama, reading
from vlm_mu_jax.model.tensors import SAME, Dialect, Row

KINDS = ("gemma3_text",)  # `model_type` in config.json

# Llama's rows, but for the norms: "post_attention_layernorm" is what the name says here, and not the MLP's.
_NORMS = {
    "input_layernorm": "attn_norm_LD",
    "post_attention_layernorm": "attn_post_norm_LD",
    "pre_feedforward_layernorm": "mlp_norm_LD",
    "post_feedforward_layernorm": "mlp_post_norm_LD",
}
NAMES = (
    *(row for row in llama.NAMES if "layernorm" not in row.key),
    *(Row(f"{{text}}layers.{{l}}.{key}.weight", f"decoder/layers/{path}", SAME) for key, path in _NORMS.items()),
)
DIALECTS = (Dialect("gemma3_text", NAMES, "model.", "lm_head.", marks=("decoder/layers/attn_post_norm_LD",)),)

# What transformers means by a field that is not there.
_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
_REFUSED = ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention")


def read(config: dict[str, Any]) -> ModelConfig:
    """A whole text-only checkpoint."""
    ids = reading.token_ids(config, bos=2, eos=1)
    return ModelConfig(text=read_text(config), **ids, dtype=reading.dtype(config))


def read_text(config: dict[str, Any]) -> TextConfig:
    """The decoder; also as `text_config` of a vision-language model."""
    for name in _REFUSED:
        if config.get(name):
            raise InputError(f"config.json: {name} is {config[name]!r}, which is not supported; Gemma 3 has none")
    rope = _rope(config)
    width = config.get("hidden_size", _DEFAULTS["hidden_size"])
    return reading.decoder(
        {**config, "rope_parameters": rope["full_attention"]},
        _DEFAULTS,
        activation=reading.activation(config.get("hidden_activation", "gelu_pytorch_tanh")),
        qk_norm=True,
        post_norms=True,
        norm_offset=True,
        query_scalar=float(config.get("query_pre_attn_scalar", 256)),
        embed_scale=float(width**0.5),
        window_rope_theta=float(rope["sliding_attention"]["rope_theta"]),
        **reading.windows(_types(config), config.get("sliding_window", 4096)),
    )


def _types(config: dict[str, Any]) -> list[str]:
    """Kind of attention of every layer: one in `sliding_window_pattern` is global."""
    if config.get("layer_types") is not None:
        return config["layer_types"]
    depth, pattern = config.get("num_hidden_layers", 26), config.get("sliding_window_pattern", 6)
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(min(depth, 10_000))]


def _rope(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rope of global and local layers. transformers 4 writes a base each, and a scaling of the global layers alone."""
    given = config.get("rope_parameters") or {}
    full, local = (dict(given.get(kind) or {}) for kind in ("full_attention", "sliding_attention"))
    full = full | dict(config.get("rope_scaling") or {})
    full.setdefault("rope_theta", config.get("rope_theta", _DEFAULTS["rope_theta"]))
    local.setdefault("rope_theta", config.get("rope_local_base_freq", 10000.0))
    if local.get("rope_type", "default") != "default":
        raise InputError(f"config.json: rope scaling {local['rope_type']!r} of sliding_attention is not supported")
    return {"full_attention": full, "sliding_attention": local}
