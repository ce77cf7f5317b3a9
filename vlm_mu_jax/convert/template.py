"""Which conversation template a checkpoint was trained with, read off its chat template."""

import json
from pathlib import Path

from vlm_mu_jax.data.prompts import TEMPLATES
from vlm_mu_jax.errors import InputError

# A phrase of the checkpoint's chat template (or model name) -> our template. The first that occurs wins.
_SIGNS = (
    ("curious human", "llava_v1"),
    ("curious user", "vicuna_v1"),
    ("USER: ", "llava_hf"),
)


def choose_template(folder: Path, wanted: str, has_vision: bool) -> str:
    """The template's name; "auto" looks at the checkpoint, and falls back to what its kind usually has.

    Raises:
      InputError: `wanted` is not a template.
    """
    if wanted != "auto":
        if wanted not in TEMPLATES:
            raise InputError(f"--template={wanted}: not known; use auto or one of {', '.join(TEMPLATES)}")
        return wanted
    text = _chat_template(folder)
    for sign, name in _SIGNS:
        if sign in text:
            return name
    return "llava_hf" if has_vision else "plain"


def _chat_template(folder: Path) -> str:
    """All places where transformers keeps a chat template, joined; "" when there is none."""
    found = []
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found.append(text if name.endswith(".jinja") else _entry(text))
    return "\n".join(found)


def _entry(text: str) -> str:
    """The `chat_template` of a JSON file: a string, or a list of named ones."""
    try:
        return json.dumps(json.loads(text).get("chat_template") or "")
    except (ValueError, AttributeError):  # broken files are reported by whoever needs them
        return ""
