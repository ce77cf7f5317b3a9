"""Which conversation template a checkpoint was trained with, read off its chat template, or else its name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.prompts import TEMPLATES
from vlm_mu_jax.errors import InputError

# A phrase of the checkpoint's chat template -> our template. The first that occurs wins.
_SIGNS = (
    ("curious human", "llava_v1"),
    ("curious user", "vicuna_v1"),
    ("<|start_header_id|>", "llama_3"),
    ("<|im_start|>", "chatml"),
    ("[INST]", "mistral_instruct"),
    ("USER: ", "llava_hf"),
    ("ASSISTANT:", "llava_hf"),  # llava-hf's own writes message['role'].upper() + ': '
)


def choose_template(folder: Path, wanted: str, hf_config: Mapping[str, Any], dialect: str) -> str:
    """The template's name; "auto" looks at the checkpoint, and falls back to what its kind usually has.

    Args:
      folder: where the checkpoint's tokenizer is.
      wanted: "auto" or a name in `data.prompts.TEMPLATES`.
      hf_config: its config.json.
      dialect: spelling of its tensors' names.

    Raises:
      InputError: `wanted` is not a template, or the checkpoint's own is not supported.
    """
    if wanted != "auto":
        if wanted not in TEMPLATES:
            raise InputError(f"--template={wanted}: not known; use auto or one of {', '.join(TEMPLATES)}")
        return wanted
    text = _chat_template(folder)
    name = next((name for sign, name in _SIGNS if sign in text), None) or _by_kind(folder, hf_config, dialect)
    if name not in TEMPLATES:
        known = "|".join(TEMPLATES)
        raise InputError(f"{folder}: was trained with {name} prompts, which are not supported; try --template={known}")
    return name


def _by_kind(folder: Path, hf_config: Mapping[str, Any], dialect: str) -> str:
    """Vicuna and the original LLaVA say their template in code only (fastchat and llava conversation.py)."""
    if dialect.startswith("llava_original"):
        return "mistral_instruct" if hf_config["text_config"]["model_type"] == "mistral" else "vicuna_v1"
    if "vision_config" in hf_config:  # early llava-hf revisions of 1.6 have no chat template
        mistral = hf_config["model_type"] == "llava_next" and hf_config["text_config"].get("model_type") == "mistral"
        return "mistral_instruct" if mistral else "llava_hf"
    return "vicuna_v1" if "vicuna" in f"{hf_config.get('_name_or_path')} {folder.resolve()}".lower() else "plain"


def _chat_template(folder: Path) -> str:
    """All places where transformers keeps a chat template, joined; "" when there is none."""
    found = []
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and name.endswith(".jinja"):
            found.append(path.read_text(encoding="utf-8", errors="replace"))
        else:
            found.append(json.dumps(_json(path).get("chat_template") or ""))  # one string, or a list of named ones
    return "\n".join(found)


def _json(path: Path) -> dict:
    """A JSON object; {} where there is none. Broken files are reported by whoever needs them."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
