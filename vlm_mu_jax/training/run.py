"""A whole training run: settings in, a workdir with the trained model folder out."""

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax import model_folder
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.layers import REMAT_POLICIES
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.training.loop import train
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.reference import weights_hash
from vlm_mu_jax.training.sources import read_sources
from vlm_mu_jax.training.trainable import Selection


def run(
    settings: dict[str, Any], workdir: str | Path, progress: Callable[..., Iterable] | None = None
) -> dict[str, Any]:
    """Trains as `settings` (from `settings.checked`) say; a workdir with checkpoints of the same run goes on.

    The workdir gets config.json, data.json (what was read, dropped and cut), provenance.json, metrics.jsonl,
    TensorBoard events, checkpoints/ and, when training is complete, model/.

    Returns:
      the last step's metrics.

    Raises:
      InputError: bad settings or data. JobError: training failed.
    """
    workdir = Path(workdir)
    objective = make_objective(**settings["objective"])
    optim, selection = OptimConfig(**settings["optim"]), Selection.of(**settings["train"])
    if not settings["model"]["init"]:
        raise InputError("config.model.init is not set; give the model folder to start from")
    if settings["model"]["remat"] not in REMAT_POLICIES:
        raise InputError(
            f"config.model.remat: {settings['model']['remat']!r} is unknown; use one of {', '.join(REMAT_POLICIES)}"
        )
    mesh = make_mesh(**settings["mesh"])
    model = model_folder.load(settings["model"]["init"], mesh)
    sources = read_sources(settings, objective, _processor(model, settings))
    workdir.mkdir(parents=True, exist_ok=True)
    start = weights_hash(model.params)
    provenance = _provenance(settings, sources.manifest, start)
    for name, value in (("config", settings), ("data", sources.manifest), ("provenance", provenance)):
        model_folder.write_json(workdir / f"{name}.json", value)
    params, metrics = train(
        model.config.with_text(remat=settings["model"]["remat"]), model.params, sources.streams, objective, optim,
        settings["steps"], trainable=selection, mesh=mesh, accumulate=settings["accumulate"], workdir=workdir,
        checkpoint_every=settings["checkpoint_every"], keep=settings["keep"], progress=progress,
        label=settings["objective"]["name"], seed=settings["seed"],
    )  # fmt: skip
    provenance["weights_sha256"] = weights_hash(params)
    folder = model_folder.read_settings(model.folder)
    model_folder.write_model_folder(
        workdir / "model", params, model_folder.read_json(model.folder / "config.json"), model.folder,
        settings["model"]["template"] or folder["template"], folder["dialect"], provenance,
    )  # fmt: skip
    model_folder.write_json(workdir / "provenance.json", provenance)
    return {name: float(values[-1]) for name, values in metrics.items()}


def _processor(model: model_folder.Model, settings: dict[str, Any]) -> Any:
    template = settings["model"]["template"]
    if template is None or template == model.processor.template:
        return model.processor
    return type(model.processor)(model.processor.tokenizer, model.processor.settings, template, model.config)


def _provenance(settings: dict[str, Any], manifest: dict[str, Any], start: str) -> dict[str, Any]:
    """Everything that says where the trained weights come from."""
    return {
        "kind": settings["objective"]["name"],
        "seed": settings["seed"],
        "objective": settings["objective"],
        "steps": settings["steps"],
        "start_weights_sha256": start,
        "data": manifest,
        "git_revision": _git_revision(),
        "packages": model_folder.package_versions(),
        "devices": [f"{jax.device_count()} x {jax.devices()[0].device_kind}"],
    }


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
