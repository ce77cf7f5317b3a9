"""What a finished run leaves: the model folder, the adapter of a LoRA run, and where the weights come from."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.origin import base_of
from vlm_mu_jax.training.adapter import save_adapter
from vlm_mu_jax.training.loop import Fitted
from vlm_mu_jax.training.trainable import Selection


def export(
    workdir: Path, start: model_folder.Model, fitted: Fitted, selection: Selection, provenance: dict[str, Any]
) -> tuple[model_folder.Model, dict[str, Any]]:
    """Writes adapter/ (of a LoRA run), model/ and the final provenance.json.

    In a job of several processes all call it; process 0 writes all but the parameters.

    Args:
      workdir: of the run.
      start: the model that it started from, with the run's processor. Its parameters may be given up already.
      fitted: what training returned.
      selection: what trained.
      provenance: as `provenance_of` made it.

    Returns:
      the trained model in its folder, and the final provenance.
    """
    provenance = {
        **provenance,
        "weights_sha256": weights_hash(fitted.params),
        "weights_of_step": fitted.step,
        "base": base_of(start.folder),
    }
    stored = model_folder.read_settings(start.folder)
    if selection.lora_rank:
        provenance["adapter"] = save_adapter(
            workdir,
            fitted.trainable,
            fitted.params,
            selection,
            param_specs(start.config),
            start.folder,
            stored["dialect"],
        )
    model_folder.write_model_folder(
        workdir / "model",
        fitted.params,
        read_json(start.folder / "config.json"),
        start.folder,
        start.processor.chat.name,
        stored["dialect"],
        provenance,
        start.processor.system,
    )
    write_files(workdir, provenance=provenance)
    return model_folder.Model(fitted.params, start.config, start.processor, workdir / "model"), provenance


def provenance_of(kind: str, about: dict[str, Any], manifest: dict[str, Any], start: str | None) -> dict[str, Any]:
    """Everything that says where trained weights come from.

    Args:
      kind: name of the objective.
      about: the settings that decide the weights, such as seed, objective and steps.
      manifest: what was read, dropped and cut.
      start: hash of the weights before training.
    """
    return {
        "kind": kind,
        **about,
        "start_weights_sha256": start,
        "data": manifest,
        "git_revision": _git_revision(),
        "packages": model_folder.package_versions(),
        "devices": [f"{jax.device_count()} x {jax.devices()[0].device_kind}"],
        "processes": jax.process_count(),
    }


def write_files(workdir: Path, **contents: Any) -> None:
    """Writes NAME.json for each argument; only process 0 of a job does."""
    if distributed.first():
        workdir.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_json(workdir / f"{name}.json", content)


@contextmanager
def owned(workdir: Path | None) -> Iterator[None]:
    """Holds a run's folder: a second command on it is refused. Only process 0 of a job asks. None holds nothing.

    Raises:
      InputError: another command writes the folder.
    """
    if workdir is None or not distributed.first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with only_writer(workdir / ".lock", workdir):
        yield


def _git_revision() -> str | None:
    """Revision of this checkout, None outside of one."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
