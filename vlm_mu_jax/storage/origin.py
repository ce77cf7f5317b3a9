"""The published checkpoint that a model comes from, however often it was trained since, and its licence."""

from pathlib import Path
from typing import Any

from vlm_mu_jax.files.json_file import read_json

CARD = "README.md"


def base_of(folder: str | Path) -> dict[str, Any]:
    """{"source": what was converted at first, "license": as its card says} of a model folder; {} if it does not say."""
    path = Path(folder) / "provenance.json"
    if not path.is_file():
        return {}
    known = read_json(path)
    return known.get("base") or {name: known[name] for name in ("source", "license") if known.get(name)}


def licence_of(checkpoint: str | Path) -> str | None:
    """The licence that the metadata of a checkpoint's card names, None where there is none."""
    from huggingface_hub import metadata_load  # heavy import

    card = Path(checkpoint) / CARD
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except Exception:  # a stranger's YAML raises anything
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None
