"""Drawn configurations: what `tests.families.FAMILIES[name].write` takes beside the folder.

The first choice of each list is hypothesis's first example. It is one that exercises much, not the simplest.
"""

from typing import Any

import transformers
from hypothesis import strategies as st

from tests.conversion.hf_checkpoints import LLAMA3_ROPE

Draw = Any  # hypothesis's draw function
Fields = dict[str, Any]
_EPS = (1e-5, 1e-3, 1e-6)
_ACTS = ("gelu", "gelu_pytorch_tanh", "quick_gelu", "silu")
_TEXTS = {
    "Llama": transformers.LlamaConfig,
    "Mistral": transformers.MistralConfig,
    "Qwen2": transformers.Qwen2Config,
    "Qwen3": transformers.Qwen3Config,
}


def _one(draw: Draw, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def _rope(draw: Draw) -> Fields:
    kinds = {
        "default": {},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
        "llama3": LLAMA3_ROPE,
        "linear": {"factor": 3.0},
        "dynamic": {"factor": 2.0},
    }
    kind = _one(draw, *kinds)
    return kinds[kind] | {"rope_type": kind, "rope_theta": _one(draw, 1e4, 5e5)}


def _decoder(draw: Draw, heads_fill: bool = False) -> Fields:
    """Fields of every decoder. heads_fill: its heads together are as wide as the model. Otherwise the width is another
    multiple of their number, as Llama's must be, and 16 at least: below that, norms make float32's rounding larger than
    the tolerance."""
    K, group, H = _one(draw, 2, 1, 3), _one(draw, 2, 3, 1), _one(draw, 8, 12, 16)
    width = K * group * _one(draw, 6, 10)
    return {
        "hidden_size": K * group * H if heads_fill else width * -(-16 // width),
        "intermediate_size": _one(draw, 29, 40),
        "num_hidden_layers": _one(draw, 3, 1, 2),
        "num_attention_heads": K * group,
        "num_key_value_heads": K,
        "head_dim": H,
        "rms_norm_eps": _one(draw, *_EPS),
        "tie_word_embeddings": draw(st.booleans()),
    }


def _text(draw: Draw, kind: str) -> Fields:
    """Fields of the decoder of one of `_TEXTS`."""
    fields = _decoder(draw) | {"rope_parameters": _rope(draw), "hidden_act": _one(draw, "silu", "gelu")}
    fields["max_position_embeddings"] = _one(draw, 512, 48)  # shorter than most prompts
    if kind == "Llama":
        fields |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    if kind == "Mistral":
        fields["sliding_window"] = _one(draw, 9, None, 40)
    if kind.startswith("Qwen"):
        windows = {"use_sliding_window": True, "sliding_window": _one(draw, 7, 40), "max_window_layers": 1}
        fields |= _one(draw, {}, windows)
    if kind == "Qwen3":
        fields["attention_bias"] = draw(st.booleans())
    return fields


def _tower(draw: Draw, sides: tuple[int, ...] = (2, 3, 4), **fixed: Any) -> Fields:
    """Fields of a plain vision transformer. sides: patches along a side of the image."""
    heads, patch = _one(draw, 2, 1, 3), _one(draw, 4, 2, 5)
    return {
        "hidden_size": heads * _one(draw, 10, 6),
        "intermediate_size": _one(draw, 23, 32),
        "num_hidden_layers": _one(draw, 3, 2, 4),
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": patch * _one(draw, *sides),
        "layer_norm_eps": _one(draw, *_EPS),
        "hidden_act": _one(draw, *_ACTS),
    } | fixed


def _mixed(draw: Draw, *kinds: str) -> Fields:
    """A text model of one of these kinds, and the outer config's word on its head."""
    kind = _one(draw, *kinds)
    text = _text(draw, kind)
    return {"text": text, "text_class": _TEXTS[kind], "tie_word_embeddings": text["tie_word_embeddings"]}


def _read(draw: Draw, *layers: Any) -> Fields:
    return {"vision_feature_layer": _one(draw, *layers)}


def _select(draw: Draw) -> Fields:
    return {"vision_feature_select_strategy": _one(draw, "default", "full")}


def _projector(draw: Draw) -> Fields:
    return {"projector_hidden_act": _one(draw, "gelu", "silu"), "multimodal_projector_bias": draw(st.booleans())}


def _llava(draw: Draw) -> Fields:
    layers = _read(draw, -2, [-1, 1], 1)
    return _mixed(draw, *_TEXTS) | {"vision": _tower(draw)} | layers | _select(draw) | _projector(draw)


def _llava_siglip(draw: Draw) -> Fields:
    tower = _tower(draw, vision_use_head=draw(st.booleans()))
    read = _read(draw, -1, -2, [-2, 1]) | _select(draw)
    return _mixed(draw, "Qwen2", "Qwen3") | {"vision": tower} | read | _projector(draw)


def _llava_next(draw: Draw) -> Fields:
    grids = _one(draw, ((1, 2), (2, 1), (2, 2)), ((1, 1), (1, 3), (3, 1)))
    fields = _mixed(draw, *_TEXTS) | {"vision": _tower(draw), "grids": grids}
    return fields | _read(draw, -2, [-2, -1]) | _projector(draw)


def _vipllava(draw: Draw) -> Fields:
    text = _text(draw, "Llama")
    layers = {"vision_feature_layers": _one(draw, [-2, -1, 1], [1, -1]), "projector_layernorm_eps": _one(draw, *_EPS)}
    fields = {"text": text, "vision": _tower(draw), "tie_word_embeddings": text["tie_word_embeddings"]}
    return fields | {"vision_feature_layer": layers.pop("vision_feature_layers")} | layers


def _internvl(draw: Draw) -> Fields:
    ratio = _one(draw, 0.5, 0.25, 1.0)
    tower = _tower(
        draw,
        (4, 8) if ratio == 0.25 else (4, 2),
        attention_bias=draw(st.booleans()),
        use_qk_norm=draw(st.booleans()),
        norm_type=_one(draw, "layer_norm", "rms_norm"),
        use_absolute_position_embeddings=_one(draw, True, False),
        use_mean_pooling=draw(st.booleans()),
    )
    fields = {"vision": tower, "downsample_ratio": ratio, "tiles": _one(draw, (1, 4), (2, 3), (1, 1))}
    return _mixed(draw, "Qwen2", "Qwen3", "Llama") | fields | _read(draw, -1, -2)


def _onevision(draw: Draw) -> Fields:
    tower = _tower(draw, vision_use_head=draw(st.booleans()))
    fields = {"vision": tower, "most": _one(draw, 2, 1, 4), "grid": _one(draw, (3, 3), (2, 4))}
    return _mixed(draw, "Qwen2", "Qwen3", "Llama") | fields | _read(draw, -1, -2) | _projector(draw)


def _idefics(draw: Draw) -> Fields:
    factor = _one(draw, 2, 1, 3)
    text, tower = _text(draw, "Llama"), _tower(draw, (factor, 2 * factor))
    fields = {"text": text, "vision": tower, "scale_factor": factor, "splits": _one(draw, 2, 1, 3)}
    return fields | {"tie_word_embeddings": text["tie_word_embeddings"]}


def _gemma(draw: Draw) -> Fields:
    text = _decoder(draw)
    depth = text["num_hidden_layers"]
    kinds = st.lists(st.sampled_from(["sliding_attention", "full_attention"]), min_size=depth, max_size=depth)
    text |= {
        "layer_types": draw(kinds),
        "sliding_window": _one(draw, 5, 40),
        "query_pre_attn_scalar": _one(draw, 9, 20),
        "attention_bias": draw(st.booleans()),
        "hidden_activation": _one(draw, "gelu_pytorch_tanh", "silu"),
        "rope_parameters": {
            "full_attention": _rope(draw),
            "sliding_attention": {"rope_type": "default", "rope_theta": _one(draw, 100.0, 1e4)},
        },
    }
    side = _one(draw, 2, 1)
    tower = _tower(draw, (2 * side, side), vision_use_head=False)
    fixed = {"mm_tokens_per_image": side**2, "tie_word_embeddings": text["tie_word_embeddings"]}
    return {"text": text, "vision": tower} | fixed


def _qwen_vl(draw: Draw, kind: str) -> Fields:
    text = _decoder(draw, heads_fill=True)
    half = text["head_dim"] // 2
    time = draw(st.integers(1, half - 2))
    height = draw(st.integers(1, half - time - 1))
    sections = [time, height, half - time - height]
    rope = {"rope_type": "default", "rope_theta": _one(draw, 1e4, 5e5), "mrope_section": sections}
    text |= {"rope_parameters": rope, "hidden_act": _one(draw, "silu", "gelu")}
    heads, depth = _one(draw, 2, 1), _one(draw, 3, 2)
    width, merge, patch = heads * _one(draw, 8, 12), _one(draw, 2, 1, 3), _one(draw, 4, 2)
    tower = {"num_heads": heads, "depth": depth, "spatial_merge_size": merge, "patch_size": patch}
    tower["hidden_act"] = _one(draw, *_ACTS)
    layers = st.lists(st.integers(0, depth - 1), unique=True, max_size=depth)
    if kind == "Qwen2VL":
        tower |= {"embed_dim": width, "mlp_ratio": _one(draw, 2, 3)}
    if kind == "Qwen2_5_VL":
        window = merge * patch * _one(draw, 2, 1, 3)
        tower |= {"hidden_size": width, "intermediate_size": _one(draw, 21, 32), "window_size": window}
        tower["fullatt_block_indexes"] = sorted(draw(layers))
    if kind == "Qwen3VL":
        tower |= {"hidden_size": width, "intermediate_size": _one(draw, 21, 32)}
        tower |= {"num_position_embeddings": _one(draw, 25, 4, 64), "deepstack_visual_indexes": sorted(draw(layers))}
        text["num_hidden_layers"] = max(text["num_hidden_layers"], len(tower["deepstack_visual_indexes"]))
    return {"text": text, "vision": tower, "tie_word_embeddings": text["tie_word_embeddings"]}


_DRAWS = {
    "llava": _llava,
    "llava_qwen_siglip": _llava_siglip,
    "llava_next": _llava_next,
    "vipllava": _vipllava,
    "internvl": _internvl,
    "onevision": _onevision,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "qwen2_vl": lambda draw: _qwen_vl(draw, "Qwen2VL"),
    "qwen2_5_vl": lambda draw: _qwen_vl(draw, "Qwen2_5_VL"),
    "qwen3_vl": lambda draw: _qwen_vl(draw, "Qwen3VL"),
    "gemma3": _gemma,
}


@st.composite
def of_family(draw: Draw, name: str) -> Fields:
    """A configuration of the family of this name."""
    return _DRAWS[name](draw)
