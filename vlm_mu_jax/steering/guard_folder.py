"""The guard folder: `guard.safetensors` holds the arrays, `guard.json` everything else.

The JSON holds the hash of the weights that the directions were taken from. Directions are coordinates in the residual
stream of one model. On other weights they are noise with a safety label, so `guard.load_guard` refuses them there.
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import parse_json

FORMAT = 1
ARRAYS, META = "guard.safetensors", "guard.json"


def versions() -> dict[str, str]:
    """Versions of the packages that compute a guard."""
    found = {}
    for package in ("vlm_mu_jax", "jax", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def write(
    folder: str | Path,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a guard folder. It appears when it is complete and replaces an earlier guard of the same name.

    Args:
      files: further files by name, such as a heat map. Nothing here reads them again.

    Raises:
      InputError: `folder` exists and is something else.
    """
    with complete_folder(folder, META) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, partial / ARRAYS)
        (partial / META).write_text(json.dumps({"format": FORMAT, **meta}, indent=1) + "\n")
        for name, content in (files or {}).items():
            (partial / name).write_bytes(content)


def read(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and JSON of a guard folder. Raises InputError on anything missing, truncated or of another format."""
    folder = Path(folder)
    try:
        meta = parse_json((folder / META).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
    except OSError as error:
        raise InputError(f"{folder} is not a guard ({error}); make one with bin/guard extract") from None
    except (ValueError, SafetensorError) as error:
        raise InputError(f"{folder} is damaged ({error}); make it again with bin/guard extract") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{folder}/{META} is not of format {FORMAT}; make the guard again with this version")
    return arrays, meta


def check(*folders: str | Path | None) -> None:
    """Reads guard folders, so that a bad one is told before a model is loaded for it. None is no guard.

    Raises:
      InputError: as `read` does.
    """
    for folder in folders:
        if folder is not None:
            read(folder)


def validation_ids(folder: str | Path) -> set[str]:
    """Ids of the requests that the guard's selection has seen. Empty for a guard that was not selected."""
    return set(read(folder)[1].get("selection", {}).get("validation_ids", ()))
