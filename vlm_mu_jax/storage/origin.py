"""The published checkpoint that a model comes from, however often it was trained since, and its licence."""

from pathlib import Path
from typing import Any

from vlm_mu_jax.formats.provenance import ProvenanceFile
from vlm_mu_jax.formats.reading import read_file

CARD, FILE = "README.md", "provenance.json"


def provenance(folder: str | Path) -> dict[str, Any]:
    """Where the weights of a model folder come from. InputError when it does not say, or not as `ProvenanceFile`."""
    return read_file(Path(folder) / FILE, ProvenanceFile)


def base_of(folder: str | Path) -> dict[str, Any]:
    """{"source": what was converted at first, "license": as its card says} of a model folder; {} if it does not say."""
    if not (Path(folder) / FILE).is_file():
        return {}
    known = provenance(folder)
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
