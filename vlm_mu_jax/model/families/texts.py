"""Which family reads the text model inside a vision-language checkpoint."""

from types import ModuleType
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import gemma, llama, qwen

TEXTS: tuple[ModuleType, ...] = (llama, qwen, gemma)


def family_of(config: dict[str, Any], allowed: tuple[ModuleType, ...] = TEXTS) -> ModuleType:
    """The module of a `text_config`.

    Args:
      config: the text config; without a `model_type` it is a Llama.
      allowed: families that may stand there.

    Raises:
      InputError: another one.
    """
    kind = config.get("model_type", "llama")
    for family in allowed:
        if kind in family.KINDS:
            return family
    known = ", ".join(name for family in allowed for name in family.KINDS)
    raise InputError(f"config.json: language model {kind!r} is not supported; use one of {known}")
