"""A whole training run: settings in, a workdir with the trained model folder out."""

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.model.llava import param_specs
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.mesh import make_mesh
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.adapter import save_adapter
from vlm_mu_jax.training.best import Evaluation, Results
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.loop import train
from vlm_mu_jax.training.metrics import Log
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.robust import Robust
from vlm_mu_jax.training.settings import model_config
from vlm_mu_jax.training.sources import read_sources
from vlm_mu_jax.training.trainable import Selection, Tree


def run(
    settings: dict[str, Any],
    workdir: str | Path,
    progress: Callable[..., Iterable] | None = None,
    *,
    evaluation: Evaluation | None = None,
    reference_cache: str | Path | None = None,
    log: Log | None = None,
    goodput: Goodput | None = None,
) -> dict[str, Any]:
    """Trains as `settings` (from `settings.checked`) say; a workdir with checkpoints of the same run goes on.

    The workdir gets config.json, data.json (what was read, dropped and cut), provenance.json, metrics.jsonl,
    TensorBoard events, goodput.json (one entry per start of the run), checkpoints/ and, when training is complete,
    model/ and (LoRA) adapter/, see `adapter.py`. In a job of several processes all call it; process 0 writes.

    Args:
      progress, evaluation, reference_cache, log, goodput: see `loop.train`.

    Returns:
      the last step's metrics.

    Raises:
      InputError: bad settings or data. JobError: training failed.
    """
    workdir = Path(workdir)
    objective = make_objective(**settings["objective"])
    optim, selection = OptimConfig(**settings["optim"]), Selection.of(**settings["train"])
    robust = Robust(**settings["robust"])
    if not settings["model"]["init"]:
        raise InputError("config.model.init is not set; give the model folder to start from")
    goodput = goodput or Goodput()
    mesh = make_mesh(**settings["mesh"])
    model = model_folder.load(settings["model"]["init"], mesh)
    cfg = model_config(model.config, settings["model"], mesh.devices.flat[0].platform)
    sources = read_sources(settings, objective, _processor(model, settings))
    start = weights_hash(model.params)
    provenance = _provenance(settings, sources.manifest, start)
    _write(workdir, config=settings, data=sources.manifest, provenance=provenance)
    learned: Tree = {}
    with _recorded(goodput, workdir):
        params, metrics = train(
            cfg,
            model.params,
            sources.streams,
            objective,
            optim,
            settings["steps"],
            trainable=selection,
            robust=robust,
            mesh=mesh,
            accumulate=settings["accumulate"],
            workdir=workdir,
            checkpoint_every=settings["checkpoint_every"],
            keep=settings["keep"],
            evaluation=evaluation,
            donate=True,
            weights=start,
            reference_cache=reference_cache,
            progress=progress,
            log=log,
            goodput=goodput,
            on_trained=learned.update,
            label=settings["objective"]["name"],
            seed=settings["seed"],
        )
        provenance["weights_sha256"] = weights_hash(params)
        provenance["weights_of_step"] = Results(evaluation, workdir, settings["steps"]).best_step or settings["steps"]
        _export(workdir, model, params, learned if selection.lora_rank else None, settings, provenance)
    return {name: float(values[-1]) for name, values in metrics.items()}


def trained_step(workdir: str | Path) -> int:
    """After which update the weights in a finished run's model/ were taken."""
    return read_json(Path(workdir) / "provenance.json")["weights_of_step"]


def _export(
    workdir: Path,
    model: model_folder.Model,
    params: Params,
    learned: Tree | None,
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Writes adapter/ (of a LoRA run: `learned`), model/ and the final provenance.json."""
    folder = model_folder.read_settings(model.folder)
    if learned is not None:
        provenance["adapter"] = save_adapter(
            workdir,
            learned,
            params,
            Selection.of(**settings["train"]),
            param_specs(model.config),
            model.folder,
            folder["dialect"],
        )
    model_folder.write_model_folder(
        workdir / "model",
        params,
        read_json(model.folder / "config.json"),
        model.folder,
        settings["model"]["template"] or folder["template"],
        folder["dialect"],
        provenance,
    )
    _write(workdir, provenance=provenance)


def _write(workdir: Path, **files: Mapping[str, Any]) -> None:
    if distributed.first():
        workdir.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            write_json(workdir / f"{name}.json", value)


@contextmanager
def _recorded(goodput: Goodput, workdir: Path) -> Iterator[None]:
    """However it ends, goodput.json gets an entry."""
    try:
        yield
    finally:
        if distributed.first():
            file, new = workdir / "goodput.json", workdir / ".goodput.json"
            before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
            new.write_text(json.dumps([*before, goodput.result()], indent=2) + "\n", encoding="utf-8")
            new.replace(file)  # a kill leaves the old one or the new one


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
        "robust": settings["robust"],
        "steps": settings["steps"],
        "start_weights_sha256": start,
        "data": manifest,
        "git_revision": _git_revision(),
        "packages": model_folder.package_versions(),
        "devices": [f"{jax.device_count()} x {jax.devices()[0].device_kind}"],
        "processes": jax.process_count(),
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
