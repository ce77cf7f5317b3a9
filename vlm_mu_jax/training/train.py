"""A training run from a config: a workdir with the trained model folder comes out. What `bin/train` does."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data import chat_template
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_value, write_json
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.mesh import batch_shards, make_mesh
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training import trackers
from vlm_mu_jax.training.checkpoint import check_place
from vlm_mu_jax.training.config_files import load_config
from vlm_mu_jax.training.evaluation_questions import EvaluationQuestions, evaluation_of
from vlm_mu_jax.training.export import export, owned, provenance_of, write_files
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.loop import NOBODY, fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.robust import Robust
from vlm_mu_jax.training.sources import read_sources
from vlm_mu_jax.training.spec import Observers, RunStorage, TrainingSpec
from vlm_mu_jax.training.trainable import Selection


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model.

    Attributes:
      model: the model, ready to go on with. Its folder is workdir/model, or that of the start model without a workdir.
      metrics: every metric of the updates that this call made, one value per update. Empty when all were made before.
      step: after which update the weights were taken: the last one, or that of the best evaluation.
      provenance: where the weights come from, as provenance.json has it.
      workdir: the run's folder, or None.
    """

    model: model_folder.Model
    metrics: dict[str, np.ndarray]
    step: int
    provenance: dict[str, Any]
    workdir: Path | None = None

    @property
    def params(self) -> Params:
        """The trained weights, adapters merged in."""
        return self.model.params

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last update."""
        return {name: float(values[-1]) for name, values in self.metrics.items()}


def train(
    config: str | ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    observers: Observers = NOBODY,
    questions: EvaluationQuestions | None = None,
    reference_cache: str | Path | None = None,
) -> Trained:
    """Trains as a config says. A workdir with checkpoints of the same run goes on.

    The workdir gets config.json, data.json (what was read, dropped and cut), provenance.json, metrics.jsonl,
    TensorBoard events, goodput.json (one entry per start of the run), checkpoints/ and, when training is complete,
    model/ and (LoRA) adapter/. In a job of several processes all call it; process 0 writes.

    Example:
      changes = {"model.init": "runs/base", "data.root": "runs/mini/data", "steps": 50}
      trained = vlm_mu_jax.train("miniature_unlearn:npo", "runs/npo", changes=changes)
      trained.model, trained.last["loss"]

    Args:
      config: the name of a config, with its argument after a colon; or a config, as `settings.defaults` makes one; or
        the same as plain values.
      workdir: folder of the run.
      changes: config path -> value, as `--config.PATH=VALUE` on the command line.
      progress: shows a bar.
      observers: who else watches: log, goodput, evaluation. `evaluation` replaces what `config.eval` asks for.
      questions: those of another run of the same sweep; by default `config.eval` says which.
      reference_cache: folder of the reference log-probabilities; the workdir by default.

    Raises:
      InputError: bad settings or data, or another command writes the workdir.
      JobError: training failed, or was stopped by SIGTERM after a checkpoint.
    """
    settings, workdir = settings_of(config, changes), at_home(workdir)
    check_place(workdir)
    if settings["sweep"]:
        raise InputError("config.sweep is set; run its points with training.sweep.run_sweep, or set it to ()")
    if observers.evaluation is None:
        observers = dataclasses.replace(observers, evaluation=evaluation_of(settings, workdir, questions))
    goodput = observers.goodput or Goodput()
    observers = dataclasses.replace(
        observers, progress=progress or observers.progress, goodput=goodput, label=settings["objective"]["name"]
    )
    if not settings["model"]["init"]:
        raise InputError("config.model.init is not set; give the model folder to start from")
    trackers.check(settings["log"])
    folder = model_folder.find(settings["model"]["init"])
    processor = _processor(folder, settings)
    spec, mesh = _planned(settings, processor.cfg)
    sources = read_sources(settings, spec.objective, processor)  # what is wrong with data is told before weights load
    spec.streams(sources.streams, batch_shards(mesh))
    model = model_folder.load(folder, mesh, with_processor=False)
    model = dataclasses.replace(model, config=processor.cfg, processor=processor)
    start = weights_hash(model.params)
    about = {name: settings[name] for name in ("seed", "objective", "robust", "steps")}
    if spec.quantize is not None:
        about["quantize"] = str(spec.quantize)
    provenance = provenance_of(settings["objective"]["name"], about, sources.manifest, start)
    storage = RunStorage(
        workdir,
        settings["checkpoint_every"],
        settings["keep"],
        None if reference_cache is None else Path(reference_cache),
        start,
        settings["log"],
    )
    with owned(workdir):
        write_files(workdir, config=settings, data=sources.manifest, provenance=provenance)
        with _recorded(goodput, workdir):
            fitted = fit(
                spec, model.params, sources.streams, mesh=mesh, donate=True, storage=storage, observers=observers
            )
            write_files(workdir, data=sources.counted())
            trained, provenance = export(workdir, model, fitted, spec.trainable, provenance)
    return Trained(trained, fitted.metrics, fitted.step, provenance, workdir)


def settings_of(
    config: str | ml_collections.ConfigDict | Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The checked settings of a config that is given by name, as a config or as plain values.

    Raises:
      InputError: no such config, or a key or value that does not fit.
    """
    if isinstance(config, str):
        config = load_config(config)
    elif not isinstance(config, ml_collections.ConfigDict):
        config = ml_collections.ConfigDict(dict(config))
    return settings_lib.checked(settings_lib.changed(config, changes or {}))


def _planned(settings: Mapping[str, Any], cfg: ModelConfig) -> tuple[TrainingSpec, Mesh]:
    """What the run computes with a model of this config, and its mesh."""
    objective = make_objective(**settings["objective"])
    optim, selection = OptimConfig(**settings["optim"]), Selection.of(**settings["train"])
    robust = Robust(**settings["robust"])
    mesh = make_mesh(**settings["mesh"])
    cfg = settings_lib.model_config(cfg, settings["model"], mesh.devices.flat[0].platform)
    spec = TrainingSpec(
        cfg,
        objective,
        optim,
        settings["steps"],
        selection,
        settings["accumulate"],
        robust,
        settings["seed"],
        settings_lib.scheme(settings["model"]),
    )
    return spec, mesh


def _processor(folder: Path, settings: Mapping[str, Any]) -> Processor:
    """The model's processor with the template that the settings ask for."""
    processor, template = model_folder.read_processor(folder), settings["model"]["template"]
    if template is None or template == processor.template:
        return processor
    if template == chat_template.OWN:
        template = chat_template.of_folder(folder) or template
    return processor.with_template(template)


@contextmanager
def _recorded(goodput: Goodput, workdir: Path) -> Iterator[None]:
    """However it ends, goodput.json gets an entry."""
    try:
        yield
    finally:
        if distributed.first():
            file = workdir / "goodput.json"
            before = read_value(file) if file.is_file() else []
            if not isinstance(before, list):
                raise InputError(f"{file}: holds no list; delete it, or use another workdir")
            write_json(file, [*before, goodput.result()])
