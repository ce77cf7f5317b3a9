"""Families of checkpoints, one file each: what its `config.json` means and how its tensors are named.

A family's module has KINDS (values of `model_type`), `read(config) -> ModelConfig` and DIALECTS (spellings of its
tensor names), and a family with images IMAGE_PROCESSORS (classes of its image processor). ELSEWHERE says where its
models are to be had that are published under a `model_type` of other code. Outside this folder nothing knows a family's
name.
"""

import dataclasses
import math
from types import ModuleType
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import gemma, gemma_vision, idefics, internvl, llama, llava, onevision, qwen, qwen_vl
from vlm_mu_jax.model.image_plans.image_plan import ImageProcessorKind
from vlm_mu_jax.model.tensors import Dialect

FAMILIES: tuple[ModuleType, ...] = (llava, llama, qwen, gemma, internvl, onevision, idefics, gemma_vision, qwen_vl)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for family in FAMILIES for dialect in family.DIALECTS}
IMAGE_PROCESSORS: dict[str, ImageProcessorKind] = {
    kind.name: kind for family in FAMILIES for kind in getattr(family, "IMAGE_PROCESSORS", ())
}

# A field beyond its bound is a damaged file: shapes, loops and memory are built on these.
_MOST = {"L": 1000, "N": 4096, "K": 4096, "H": 8192, "D": 1 << 20, "F": 1 << 22, "V": 1 << 24, "image_size": 1 << 14}


def from_hf(config: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """Reads a `config.json`, in the spellings of transformers 4 and 5.

    Args:
      config: the parsed file.
      source: its name, for messages.

    Raises:
      InputError: an unknown `model_type`, a missing field, or one with an impossible value.
    """
    kind = config.get("model_type")
    family = next((one for one in FAMILIES if kind in one.KINDS), None)
    if family is None:
        known = ", ".join(sorted(name for one in FAMILIES for name in one.KINDS))
        hints = [hint for one in FAMILIES for name, hint in getattr(one, "ELSEWHERE", {}).items() if name == kind]
        raise InputError(
            f"{source}: model_type {kind!r} is not supported; {hints[0] if hints else 'supported are ' + known}"
        )
    try:
        cfg = family.read(config)
        problems = _problems(cfg)
    except InputError as error:
        raise InputError(str(error).replace("config.json", source, 1)) from error
    except KeyError as error:
        raise InputError(f"{source}: field {error} is missing; is this a complete Hugging Face config?") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{source}: a field has a value of the wrong kind ({error}); restore the file") from error
    if problems:
        raise InputError(f"{source}: {'; '.join(problems)}; restore the file")
    return cfg


def _problems(cfg: ModelConfig) -> list[str]:
    """Fields whose values cannot be, or do not fit each other."""
    parts = [("text", cfg.text)]
    if cfg.vision is not None:
        parts.append(("vision", cfg.vision.tower))
    found = [problem for name, part in parts for problem in _numbers(name, part)]
    if found:
        return found
    if cfg.text.N % cfg.text.K:
        found.append(f"{cfg.text.N} attention heads cannot share {cfg.text.K} key/value heads")
    if cfg.text.windowed and len(cfg.text.windowed) != cfg.text.L:
        found.append(f"layer_types names {len(cfg.text.windowed)} layers, not {cfg.text.L}")
    if cfg.text.H % 2:
        found.append(f"text head_dim {cfg.text.H} is odd; rotary positions turn pairs")
    if cfg.vision is not None:
        found += cfg.vision.tower.problems() + cfg.vision.connector.problems() + cfg.vision.plan.problems()
        found += _image_token(cfg)
    return found


def _numbers(name: str, part: Any) -> list[str]:
    """Sizes must be positive and of a possible size, other numbers finite and positive."""
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.type is int:
            most = _MOST.get(field.name, 1 << 40)
            if type(value) is not int or value < (field.default != 0):
                found.append(f"{name} {field.name} is {value!r}, not a positive number")
            elif value > most:
                found.append(f"{name} {field.name} is {value}, more than the largest that can be ({most})")
        elif field.type is float and not (math.isfinite(value) and value > 0):
            found.append(f"{name} {field.name} is {value!r}, not a positive number")
    return found


def _image_token(cfg: ModelConfig) -> list[str]:
    """It may stand just behind the vocabulary: its own embedding is never read."""
    token = cfg.image_token_id
    if type(token) is not int or not 0 <= token <= cfg.text.V:
        return [f"image_token_index {token!r} is not in the vocabulary of {cfg.text.V}"]
    return []
