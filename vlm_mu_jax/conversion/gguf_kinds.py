"""What a GGUF file of each architecture means: its config, the names of its tensors, and llama.cpp's changes to them.

An architecture is one entry of `KINDS`. Sources: ggml-org/llama.cpp convert_hf_to_gguf.py and conversion/ (what is
written), gguf-py/gguf/constants.py (names), src/models/gemma3.cpp (what Gemma's files leave unsaid).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.conversion.gguf_file import GgufFile, GgufTensors, Undo
from vlm_mu_jax.errors import InputError

# Name of a tensor in the file -> key of the Hugging Face checkpoint; {l}: the layer.
DECODER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{l}.attn_norm.weight": "model.layers.{l}.input_layernorm.weight",
    "blk.{l}.ffn_norm.weight": "model.layers.{l}.post_attention_layernorm.weight",
    **{
        f"blk.{{l}}.{theirs}.{part}": f"model.layers.{{l}}.{ours}.{part}"
        for theirs, ours in (
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        )
        for part in ("weight", "bias")
    },
}
QK_NORMS = {f"blk.{{l}}.attn_{one}_norm.weight": f"model.layers.{{l}}.self_attn.{one}_norm.weight" for one in "qk"}
GEMMA = (
    DECODER
    | QK_NORMS
    | {
        "blk.{l}.post_attention_norm.weight": "model.layers.{l}.post_attention_layernorm.weight",
        "blk.{l}.ffn_norm.weight": "model.layers.{l}.pre_feedforward_layernorm.weight",
        "blk.{l}.post_ffw_norm.weight": "model.layers.{l}.post_feedforward_layernorm.weight",
    }
)
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1 and later: what every rotary frequency is divided by
# (factor, low_freq_factor, high_freq_factor, original_max_position_embeddings) of the released Llama 3.1, 3.2, 3.3
_LLAMA3_ROPES = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
_GEMMA3_27B_LAYERS = 62  # the one Gemma 3 whose queries are not scaled by the head size; llama.cpp goes by this too


@dataclasses.dataclass(frozen=True)
class Kind:
    """One architecture.

    config: the fields of config.json that are particular to it.
    names: see `DECODER`.
    undo: end of a tensor's name in the file, such as "attn_q.weight" -> (config) -> what takes back the change.
      It holds for every tensor whose name ends so.
    """

    config: Callable[[GgufFile], dict[str, Any]]
    names: Mapping[str, str] = dataclasses.field(default_factory=lambda: DECODER)
    undo: Mapping[str, Callable[[Mapping[str, Any]], Undo]] = dataclasses.field(default_factory=dict)


def read(file: GgufFile) -> tuple[dict[str, Any], GgufTensors]:
    """(config.json, the tensors in the Hugging Face spelling) of a GGUF file.

    Raises:
      InputError: the architecture, or something that the file says of it, is not supported.
    """
    name = file.get("general.architecture", str)
    if name not in KINDS:
        known = ", ".join(KINDS)
        raise InputError(f"{file.path}: GGUF architecture {name!r} is not supported; only {known}")
    kind = KINDS[name]
    config = kind.config(file)
    layers = range(config["num_hidden_layers"])
    spelled = {
        theirs.format(l=layer): ours.format(l=layer)
        for theirs, ours in kind.names.items()
        for layer in (layers if "{l}" in theirs else (None,))
    }
    names = {theirs: ours for theirs, ours in spelled.items() if theirs in file.shapes}
    undo = {
        ours: make(config) for theirs, ours in names.items() for end, make in kind.undo.items() if theirs.endswith(end)
    }
    known = {*names, ROPE_FACTORS} & file.shapes.keys()
    tensors = GgufTensors(file, names, undo)
    tensors.problems = [f"{left} is not used by this kind of model" for left in sorted(file.shapes.keys() - known)]
    return config, tensors


def _decoder_config(file: GgufFile, arch: str) -> dict[str, Any]:
    """Fields that every decoder has."""

    def number(key: str, default: int | None = None) -> int:
        return file.get(f"{arch}.{key}", int, default)

    if number("expert_count", 0):
        raise InputError(f"{file.path}: a mixture of {number('expert_count')} experts; only dense models are supported")
    if "token_embd.weight" not in file.shapes or len(file.shapes["token_embd.weight"]) != 2:
        raise InputError(f"{file.path}: holds no token_embd.weight; is this a language model?")
    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if layers > len(file.shapes) or min(layers, heads, width) < 1:
        raise InputError(f"{file.path}: {layers} layers of {heads} heads and width {width} make no sense")
    size = number("attention.key_length", number("rope.dimension_count", width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, size) != size:
            raise InputError(f"{file.path}: {arch}.{key} {number(key)} differs from the head size {size}: unsupported")
    return {
        "vocab_size": file.shapes["token_embd.weight"][0],
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": size,
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": _short(file.get(f"{arch}.attention.layer_norm_rms_epsilon", float)),
        **_rope(file, arch, size),
        "tie_word_embeddings": "output.weight" not in file.shapes,
        "torch_dtype": "float32",
    }


def _rope(file: GgufFile, arch: str, size: int) -> dict[str, Any]:
    theta = _short(file.get(f"{arch}.rope.freq_base", float, 10000.0))
    kind = file.get(f"{arch}.rope.scaling.type", str, "none")
    if ROPE_FACTORS in file.shapes:
        return {"rope_theta": theta, "rope_scaling": _llama3_rope(file, theta, size)}
    if kind == "none":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind != "linear":
        raise InputError(f"{file.path}: rope scaling {kind!r} is not supported for GGUF files; only linear and llama3")
    factor = _short(file.get(f"{arch}.rope.scaling.factor", float))
    return {"rope_theta": theta, "rope_scaling": {"rope_type": "linear", "factor": factor}}


def _llama3_rope(file: GgufFile, theta: float, size: int) -> dict[str, Any]:
    """The file says Llama 3's scaling by its result only; the released settings are tried for the one that fits."""
    found = file.read(ROPE_FACTORS).astype(np.float64).reshape(-1)
    for factor, low, high, original in _LLAMA3_ROPES:
        wanted = llama3_factors(theta, size, factor, low, high, original)
        if wanted.shape == found.shape and np.allclose(wanted, found, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise InputError(f"{file.path}: {ROPE_FACTORS} is that of no released Llama 3; convert the original checkpoint")


def llama3_factors(theta: float, size: int, factor: float, low: float, high: float, original: int) -> np.ndarray:
    """What llama.cpp stores in `rope_freqs.weight`: the divisor of every frequency, [head size / 2]."""
    waves = 2 * math.pi * theta ** (np.arange(0, size, 2) / size)
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _short(value: float) -> float:
    """The shortest number that is the same in float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama_config(file: GgufFile) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
        **_decoder_config(file, "llama"),
    }


def _qwen_config(file: GgufFile, arch: str) -> dict[str, Any]:
    """Qwen2 and Qwen3. llama.cpp's graphs of both read every layer whole, so there is no sliding window."""
    return {
        "model_type": arch,
        "architectures": [f"{arch.capitalize()}ForCausalLM"],
        "hidden_act": "silu",
        "use_sliding_window": False,
        "attention_bias": "blk.0.attn_q.bias" in file.shapes,
        **_decoder_config(file, arch),
    }


def _gemma3_config(file: GgufFile) -> dict[str, Any]:
    """Gemma 3. Its files say neither which layers are local nor the scale of the queries: llama.cpp knows both."""
    decoder = _decoder_config(file, "gemma3")
    layers, size = decoder["num_hidden_layers"], decoder["head_dim"]
    window = file.get("gemma3.attention.sliding_window", int, 0)
    every = file.get("gemma3.attention.sliding_window_pattern", int, 6) if window else 1
    if every < 1:
        raise InputError(f"{file.path}: gemma3.attention.sliding_window_pattern is {every}; use another file")
    if layers == _GEMMA3_27B_LAYERS:
        size = decoder["hidden_size"] // decoder["num_attention_heads"]
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": size,
        "sliding_window": window or None,
        "layer_types": ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)],
        "rope_local_base_freq": _short(file.get("gemma3.rope.freq_base_swa", float, 10000.0)),
        "final_logit_softcapping": file.metadata.get("gemma3.final_logit_softcapping"),
        **decoder,
    }


def unshifted(array: np.ndarray) -> np.ndarray:
    """llama.cpp adds 1 to Gemma's norm weights (`Gemma3Model.norm_shift`); this takes it back."""
    return array - array.dtype.type(1)


def unpermuted(heads: int) -> Undo:
    """llama.cpp interleaves the halves of every head's rotary pairs (`LlamaModel.permute`); this takes it back."""

    def undo(array: np.ndarray) -> np.ndarray:
        pairs = array.reshape(heads, len(array) // heads // 2, 2, *array.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)

    return undo


KINDS = {
    "llama": Kind(
        _llama_config,
        undo={
            f"{name}.{part}": lambda config, heads=heads: unpermuted(config[heads])
            for name, heads in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads"))
            for part in ("weight", "bias")
        },
    ),
    "qwen2": Kind(lambda file: _qwen_config(file, "qwen2")),
    "qwen3": Kind(lambda file: _qwen_config(file, "qwen3"), names=DECODER | QK_NORMS),
    "gemma3": Kind(_gemma3_config, names=GEMMA, undo={"norm.weight": lambda config: unshifted}),
}
