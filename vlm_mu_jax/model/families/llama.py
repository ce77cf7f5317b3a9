"""Llama, Mistral, Vicuna: text models of the plain block."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig, TextConfig
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

DIALECTS = (Dialect("text", NAMES, "model.", "lm_head."),)


def read(config: dict[str, Any]) -> LlavaConfig:
    """A whole text-only checkpoint."""
    return LlavaConfig(text=read_text(config), **reading.token_ids(config), dtype=reading.dtype(config))


def read_text(config: dict[str, Any]) -> TextConfig:
    """The decoder; also as `text_config` of a vision-language model."""
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(
            f"config.json: hidden_act {config['hidden_act']!r} is not supported; Llama-family models use silu"
        )
    heads = config.get("num_attention_heads", 32)
    width = config.get("hidden_size", 4096)
    is_mistral = config.get("model_type") == "mistral"
    max_positions = config.get("max_position_embeddings", 131072 if is_mistral else 2048)
    rope = reading.rope(config)
    return TextConfig(
        V=config.get("vocab_size", 32000),
        D=width,
        L=config.get("num_hidden_layers", 32),
        N=heads,
        K=config.get("num_key_value_heads", 8 if is_mistral else None) or heads,
        H=config.get("head_dim") or width // heads,
        F=config.get("intermediate_size", 14336 if is_mistral else 11008),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        rope_scaling=reading.rope_scaling(rope, max_positions),
        max_positions=max_positions,
        tie_embeddings=config.get("tie_word_embeddings", False),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        sliding_window=config.get("sliding_window", 4096) if is_mistral else None,
    )
