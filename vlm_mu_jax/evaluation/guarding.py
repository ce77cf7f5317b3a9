"""A guard as answers are steered by it, with what identifies it in `provenance.json`."""

from pathlib import Path
from typing import Any

from vlm_mu_jax.steering.guard import load_guard
from vlm_mu_jax.steering.guarded import steering
from vlm_mu_jax.storage.identity import folder_hash
from vlm_mu_jax.storage.model_folder import Model


def open_guard(model: Model, folder: str | Path | None) -> tuple[Any, dict[str, str] | None]:
    """(what steers every batch, {"folder", "sha256"}); (None, None) without a guard folder."""
    if folder is None:
        return None, None
    return steering(model, load_guard(folder, model)), {"folder": str(folder), "sha256": folder_hash(folder)}
