"""Parts of a `config.json` that every family reads alike, in the spellings of transformers 4 and 5."""

from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import RopeScaling


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
    if kind not in ("linear", "dynamic", "llama3"):
        raise InputError(f"config.json: rope scaling {kind!r} is not supported; use linear, dynamic or llama3")
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        low_freq_factor=float(rope.get("low_freq_factor", 1.0)),
        high_freq_factor=float(rope.get("high_freq_factor", 4.0)),
        original_max_positions=int(rope.get("original_max_position_embeddings") or max_positions),
    )


def token_ids(config: dict[str, Any]) -> dict[str, Any]:
    """Fields `bos_id`, `eos_ids` and `pad_id` of a `LlavaConfig`."""
    eos = config.get("eos_token_id", 2)
    eos_ids = tuple(eos) if isinstance(eos, (list, tuple)) else (() if eos is None else (eos,))
    pad = config.get("pad_token_id")
    return {"bos_id": config.get("bos_token_id", 1), "eos_ids": eos_ids, "pad_id": 0 if pad is None or pad < 0 else pad}


def dtype(config: dict[str, Any]) -> str:
    """Name of the weights' dtype.

    Raises:
      InputError: one that is not supported.
    """
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise InputError(f"config.json: dtype {name!r} is not supported; use float32, bfloat16 or float16")
    return name
