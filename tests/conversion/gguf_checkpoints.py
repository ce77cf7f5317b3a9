"""Tiny GGUF files, written with the `gguf` library as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

SIZES = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of ggml-org/llama.cpp convert_hf_to_gguf.py."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def their_name(key: str, arch: str = "llama") -> str:
    for ours, theirs in (NAMES | (GEMMA_NAMES if arch == "gemma3" else {})).items():
        key = key.replace(ours, theirs)
    return key.replace("model.layers.", "blk.")


def byte_level_vocabulary(size: int) -> tuple[list[str], list[str]]:
    """(tokens, merges): three special tokens, the 256 bytes as GPT-2 spells them, and some pairs."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    merges = ["t h", "th e", "Ġ the", "i n", "a n", "1 2"][: size - 259]
    return ["<unk>", "<|im_start|>", "<|im_end|>", *letters, *(pair.replace(" ", "") for pair in merges)], merges


def save_gguf(
    model: Any,
    path: Path,
    kind: str = "F32",
    arch: str = "llama",
    drop: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """Writes a transformers text model as GGUF.

    Args:
      arch: llama.cpp's name of its kind: "llama", "qwen2", "qwen3" or "gemma3".
      kind: ggml's name of the type of all matrices; vectors are F32, as llama.cpp has them.
      drop: keys of the metadata to leave out.
      extra: more tensors.
      fields: metadata to add or change; `__` stands for a dot.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    tokens, merges = byte_level_vocabulary(config.vocab_size)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    size = "attention.key_length" if arch in ("qwen3", "gemma3") else "rope.dimension_count"
    metadata = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{arch}.{size}": config.head_dim,
        f"{arch}.rope.freq_base": float(rope["rope_theta"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT,
    } | {name.replace("__", "."): value for name, value in fields.items()}
    for name, value in metadata.items():
        if name not in drop:
            add(writer, name, value)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().numpy()
        if arch == "gemma3" and key.endswith("norm.weight"):
            array = array + 1
        for name, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            array = permuted(array, heads) if name in key and arch == "llama" else array
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        writer.add_tensor(their_name(key, arch), gguf.quants.quantize(array, stored), raw_dtype=stored)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    kinds = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}
    getattr(writer, kinds[type(value)])(name, value)
