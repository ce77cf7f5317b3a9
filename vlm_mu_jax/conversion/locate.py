"""Where a checkpoint is: a local folder, a GGUF file, or a model on the Hugging Face hub."""

import difflib
import re
from functools import partial
from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.storage.model_folder import COMPANION_FILES
from vlm_mu_jax.storage.origin import CARD

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB = "hub:"  # says that what follows is a hub id and no path
_ALIKE = 0.75  # how similar two folder names are when one may be a slip of the other (difflib's ratio)


def locate(source: str | Path, allow_pickle: bool = False) -> Path:
    """The local folder (or GGUF file) of a checkpoint; a hub id is downloaded into the hub cache.

    An id and a relative path look alike. What looks like a mistyped path is therefore an error and is not asked for on
    the hub: a path that begins with `.`, `~` or `/`, one whose parent folder exists, or one that resembles a folder
    nearby. `hub:ORG/NAME` is always an id.

    Args:
      source: a folder, a file that ends in .gguf, "ORG/NAME" or "hub:ORG/NAME".
      allow_pickle: download PyTorch's .bin files where the hub has no safetensors.

    Raises:
      InputError: there is no such folder, or the hub cannot give it.
    """
    text = str(source)
    if text.startswith(_HUB):
        return _from_hub(text.removeprefix(_HUB), allow_pickle)
    found = resolved(source)
    if found.is_dir() or (found.is_file() and found.suffix.lower() == ".gguf"):
        return found
    if found.exists():
        raise InputError(f"{source}: is a file; give the folder that holds it, or a .gguf file")
    if text.startswith((".", "~", "/")) or not _HUB_ID.fullmatch(text):
        hint = _meant(found)
        hint = f"did you mean {hint}?" if hint else "give one, or a hub id such as llava-hf/llava-1.5-7b-hf"
        raise InputError(f"{source}: no such folder; {hint}")
    hint = _meant(found)
    if hint or found.parent.is_dir():
        near = f"did you mean {hint}?" if hint else f"{found.parent} holds none of that name"
        raise InputError(f"{source}: no such folder; {near} (for a model of this id on the hub write {_HUB}{source})")
    return _from_hub(text, allow_pickle)


def _meant(path: Path) -> Path | None:
    """The existing folder or GGUF file whose last two names are most like those of `path`; None if none is close."""
    found = _alike(path.name, path.parent)
    for parent in [] if found else _folders(path.parent.parent):
        if _similar(parent.name, path.parent.name) >= _ALIKE:
            exact = parent / path.name
            found = exact if exact.exists() else _alike(path.name, parent)
        if found:
            break
    return found


def _alike(name: str, parent: Path) -> Path | None:
    near = max(_folders(parent), key=lambda other: _similar(other.name, name), default=None)
    return near if near and _similar(near.name, name) >= _ALIKE else None


def _similar(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(p for p in parent.iterdir() if not p.name.startswith(".") and (p.is_dir() or p.suffix == ".gguf"))
    except OSError:
        return []


def _from_hub(name: str, allow_pickle: bool) -> Path:
    import huggingface_hub

    if not _HUB_ID.fullmatch(name):
        raise InputError(f"{_HUB}{name}: not a hub id; ids have the form ORG/NAME")
    others = ["config.json", "adapter_config.json", "non_lora_trainables.bin", CARD, *COMPANION_FILES]
    try:
        fetch = partial(huggingface_hub.snapshot_download, name)
        found = Path(fetch(allow_patterns=[*others, "*.safetensors", "*.safetensors.index.json"]))
        if allow_pickle and not list(found.glob("*.safetensors")):
            found = Path(fetch(allow_patterns=[*others, "*.bin", "*.bin.index.json"]))
        return found
    except Exception as error:  # unrelated types for "not found", "no network", "no access"
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: no such local folder, and it cannot be fetched from the Hugging Face hub"
            f" ({type(error).__name__}: {reason}); check the name, or download it and give the folder"
        ) from error
