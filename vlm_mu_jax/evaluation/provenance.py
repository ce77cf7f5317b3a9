"""What a result was made from: weights, data, code, packages, device."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.storage.model_folder import Model, package_versions


def collect(
    model: Model,
    weights_sha256: str,
    data_dir: Path | None,
    data_files: Mapping[str, str],
    guard: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of provenance.json.

    Args:
      model: what its folder says of its own source is repeated under "source".
      weights_sha256: of the parameters as loaded; see `storage.identity`.
      data_dir, data_files: the data folder, and file name -> sha256 of what was read there.
      guard: what identifies the guard, None without one.
    """
    return {
        "checkpoint": {
            "folder": str(model.folder),
            "weights_sha256": weights_sha256,
            "changed": model.changed,
            "source": _source(model.folder),
        },
        "data": {"folder": None if data_dir is None else str(data_dir), "sha256": dict(data_files)},
        "guard": dict(guard) if guard else None,
        "git": _git_revision(),
        "packages": package_versions(),
        "device": _device(),
    }


def _source(checkpoint: Path) -> Any:
    try:
        return read_json(checkpoint / "provenance.json")
    except InputError:
        return None


def _git_revision() -> str | None:
    """The commit of the checkout this code runs from, `+changes` when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    """What git says. It takes no lock: one that is left behind would stop the user's own commands."""
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _device() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}
