"""Parts of a `config.json` that every family reads alike, in the spellings of transformers 4 and 5."""

import math
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import RopeScaling, TextConfig
from vlm_mu_jax.model.layers import ACTIVATIONS

_WINDOWED, _FULL = "sliding_attention", "full_attention"


def decoder(config: dict[str, Any], defaults: dict[str, Any], **fields: Any) -> TextConfig:
    """The fields that all text models have under the same names.

    Args:
      config: the part of `config.json` that describes the decoder.
      defaults: what the family means by a field that is not there.
      fields: further fields of the `TextConfig`, and those that this family reads otherwise.

    Raises:
      InputError: an activation or a kind of rotary positions that is not supported.
    """
    config = {**defaults, **{name: value for name, value in config.items() if value is not None}}
    scaling = rope(config)
    common = {
        "V": config["vocab_size"],
        "D": config["hidden_size"],
        "L": config["num_hidden_layers"],
        "N": config["num_attention_heads"],
        "K": config.get("num_key_value_heads") or config["num_attention_heads"],
        "H": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "F": config["intermediate_size"],
        "norm_eps": config["rms_norm_eps"],
        "activation": activation(config.get("hidden_act", "silu")),
        "rope_theta": float(scaling.get("rope_theta", config["rope_theta"])),
        "rope_scaling": rope_scaling(scaling, config["max_position_embeddings"]),
        "max_positions": config["max_position_embeddings"],
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "attention_bias": config.get("attention_bias", False),
        "mlp_bias": config.get("mlp_bias", False),
    }
    if config.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise InputError("config.json: partial_rotary_factor is not supported; only heads that are rotated whole are")
    return TextConfig(**(common | fields))


def activation(name: str) -> str:
    """The name again.

    Raises:
      InputError: an activation that we do not have.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"config.json: hidden_act {name!r} is not supported; use one of {', '.join(ACTIVATIONS)}")
    return name


def windows(types: list[str], window: int | None) -> dict[str, Any]:
    """Fields `sliding_window` and `windowed` of a `TextConfig`.

    Args:
      types: kind of attention of every layer, as `layer_types` of transformers.
      window: tokens that a windowed layer reads.
    """
    if unknown := sorted(set(types) - {_WINDOWED, _FULL}):
        raise InputError(f"config.json: layer_types {unknown[0]!r} is not supported; use {_WINDOWED} or {_FULL}")
    if window is None or _WINDOWED not in types:
        return {"sliding_window": None}
    return {
        "sliding_window": window,
        "windowed": tuple(one == _WINDOWED for one in types) if _FULL in types else (),
    }


def rope(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes `rope_parameters`, transformers 4 `rope_scaling` plus `rope_theta`."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def rope_scaling(rope: dict[str, Any], max_positions: int) -> RopeScaling | None:
    """None for plain rotary positions.

    Raises:
      InputError: a kind that is not supported.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "dynamic", "llama3", "yarn"):
        raise InputError(f"config.json: rope scaling {kind!r} is not supported; use linear, dynamic, llama3 or yarn")
    original = int(rope.get("original_max_position_embeddings") or max_positions)
    factor = rope["factor"]
    if kind == "yarn" and factor is None:
        factor = max_positions / original
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"config.json: rope factor is {factor!r}, not a positive number; restore the file")
    yarn = {}
    if kind == "yarn":
        yarn = {
            "beta_fast": float(rope.get("beta_fast") or 32),
            "beta_slow": float(rope.get("beta_slow") or 1),
            "truncate": bool(rope.get("truncate", True)),
            "attention_factor": _attention_factor(rope, float(factor)),
        }
    return RopeScaling(
        kind=kind,
        factor=float(factor),
        low_freq_factor=float(rope.get("low_freq_factor", 1.0)),
        high_freq_factor=float(rope.get("high_freq_factor", 4.0)),
        original_max_positions=original,
        **yarn,
    )


def _attention_factor(rope: dict[str, Any], factor: float) -> float:
    """What YaRN multiplies cosines and sines by, as transformers infers it."""

    def scale(mscale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale()


def outer_ids(config: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """The text config with the token ids that the config around it sets."""
    return {**text, **{k: v for k, v in config.items() if k.endswith("_token_id") and v is not None}}


def token_ids(config: dict[str, Any], bos: int | None = 1, eos: int | None = 2) -> dict[str, Any]:
    """Fields `bos_id`, `eos_ids` and `pad_id` of a `ModelConfig`. bos, eos: where the config does not say.

    What stands in padding is never read, so a padding token that the model does not have is taken for token 0.

    Raises:
      InputError: a token is no number, or the end token is not in the vocabulary.
    """
    most = config.get("vocab_size", math.inf)
    named = config.get("eos_token_id")
    ends = list(named) if isinstance(named, (list, tuple)) else [] if named is None else [named]
    pad = config.get("pad_token_id")
    for name, tokens in (("bos", [config.get("bos_token_id")]), ("eos", ends), ("pad", [pad])):
        wrong = next((one for one in tokens if one is not None and type(one) is not int), None)
        if wrong is not None:
            raise InputError(f"config.json: {name}_token_id {wrong!r} is not the number of a token; restore the file")
    for one in ends:
        if one is None or not 0 <= one < most:
            raise InputError(f"config.json: eos_token_id {one!r} is not in the vocabulary of {most}; restore the file")
    return {
        "bos_id": config.get("bos_token_id", bos),
        "eos_ids": tuple(ends) if "eos_token_id" in config else () if eos is None else (eos,),
        "pad_id": pad if pad is not None and 0 <= pad < most else 0,
    }


def dtype(config: dict[str, Any]) -> str:
    """Name of the weights' dtype.

    Raises:
      InputError: one that is not supported.
    """
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise InputError(f"config.json: dtype {name!r} is not supported; use float32, bfloat16 or float16")
    return name
