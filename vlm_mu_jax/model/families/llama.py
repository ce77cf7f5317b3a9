"""Llama, Mistral, Vicuna: text models of the plain block."""

from typing import Any

from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.families import reading
from vlm_mu_jax.model.tensors import FLAT, LINEAR, MERGE, SAME, Dialect, Row

KINDS = ("llama", "mistral", "vicuna")  # `model_type` in config.json

NAMES = (
    Row("{text}embed_tokens.weight", "decoder/embed_VD", SAME),
    Row("{text}layers.{l}.input_layernorm.weight", "decoder/layers/attn_norm_LD", SAME),
    Row("{text}layers.{l}.self_attn.q_proj.weight", "decoder/layers/wq_LDNH", LINEAR),
    Row("{text}layers.{l}.self_attn.q_proj.bias", "decoder/layers/bq_LNH", FLAT),
    Row("{text}layers.{l}.self_attn.k_proj.weight", "decoder/layers/wk_LDKH", LINEAR),
    Row("{text}layers.{l}.self_attn.k_proj.bias", "decoder/layers/bk_LKH", FLAT),
    Row("{text}layers.{l}.self_attn.v_proj.weight", "decoder/layers/wv_LDKH", LINEAR),
    Row("{text}layers.{l}.self_attn.v_proj.bias", "decoder/layers/bv_LKH", FLAT),
    Row("{text}layers.{l}.self_attn.q_norm.weight", "decoder/layers/q_norm_LH", SAME),
    Row("{text}layers.{l}.self_attn.k_norm.weight", "decoder/layers/k_norm_LH", SAME),
    Row("{text}layers.{l}.self_attn.o_proj.weight", "decoder/layers/wo_LNHD", MERGE),
    Row("{text}layers.{l}.self_attn.o_proj.bias", "decoder/layers/bo_LD", SAME),
    Row("{text}layers.{l}.post_attention_layernorm.weight", "decoder/layers/mlp_norm_LD", SAME),
    Row("{text}layers.{l}.mlp.gate_proj.weight", "decoder/layers/wgate_LDF", LINEAR),
    Row("{text}layers.{l}.mlp.gate_proj.bias", "decoder/layers/bgate_LF", SAME),
    Row("{text}layers.{l}.mlp.up_proj.weight", "decoder/layers/wup_LDF", LINEAR),
    Row("{text}layers.{l}.mlp.up_proj.bias", "decoder/layers/bup_LF", SAME),
    Row("{text}layers.{l}.mlp.down_proj.weight", "decoder/layers/wdown_LFD", LINEAR),
    Row("{text}layers.{l}.mlp.down_proj.bias", "decoder/layers/bdown_LD", SAME),
    Row("{text}norm.weight", "decoder/norm_D", SAME),
    Row("{head}weight", "decoder/head_DV", LINEAR),
)

# What transformers means by a field that is not there.
_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
IDS = {"bos": 1, "eos": 2}
_MISTRAL = {"num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072}

DIALECTS = (Dialect("text", NAMES, "model.", "lm_head."),)


def read(config: dict[str, Any]) -> ModelConfig:
    """A whole text-only checkpoint."""
    return ModelConfig(text=read_text(config), **reading.token_ids(config, **IDS), dtype=reading.dtype(config))


def read_text(config: dict[str, Any]) -> TextConfig:
    """The decoder; also as `text_config` of a vision-language model."""
    is_mistral = config.get("model_type") == "mistral"
    window = config.get("sliding_window", 4096) if is_mistral else None
    return reading.decoder(config, _DEFAULTS | (_MISTRAL if is_mistral else {}), sliding_window=window)
