"""Unlearning in memory: a model and records in, the trained model out. `training.train` does the same from files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import forget_retain
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.objectives import registry
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model
from vlm_mu_jax.training.export import export, owned, provenance_of, write_files
from vlm_mu_jax.training.loop import fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.sources import TARGETS, Rows, loss_of, roots_of, rows_of, streams_of
from vlm_mu_jax.training.spec import Observers, RunStorage, TrainingSpec
from vlm_mu_jax.training.train import Trained
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection


@dataclasses.dataclass(frozen=True)
class UnlearnOptions:
    """How a model unlearns.

    Attributes:
      objective: name of the objective, one of `objectives.registry.OBJECTIVES` with a forget term. docs/objectives.md
        says what each is.
      objective_options: its options, such as {"beta": 1.0, "retain_weight": 5.0}; `objectives.registry.options(name)`
        lists them. RMU needs a layer.
      optim: the optimizer and its learning rate.
      steps: optimizer updates.
      batch_size: rows per update of every stream.
      trainable: what trains; by default decoder and projector, whole. `Selection(select=(), lora_rank=16)` trains LoRA
        adapters.
      robust: how the gradient of the forget term is taken, see `training.robust`.
      accumulate: micro-batches per update; more of them need less memory.
      forget_target: what is forgotten of a record: the "answer", the "query" or "both".
      max_length: tokens of a row, image tokens included. Answers are cut, prompts never.
      seed: draws the order of the rows, new LoRA pairs and RMU's control vector.
      checkpoint_every: updates between checkpoints in the workdir; 0 saves only at the end.
    """

    objective: str = "npo"
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optim: OptimConfig = OptimConfig()
    steps: int = 100
    batch_size: int = 8
    trainable: Selection = FROZEN_VISION
    robust: Robust = PLAIN
    accumulate: int = 1
    forget_target: str = "answer"
    max_length: int = 2048
    seed: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        registry.options(self.objective)  # raises InputError for an unknown one


def unlearn(
    model: Model,
    forget: Sequence[Record],
    retain: Sequence[Record],
    options: UnlearnOptions | None = None,
    workdir: str | Path | None = None,
    progress: Progress | None = None,
    *,
    preferred: Sequence[Record] | None = None,
    observers: Observers | None = None,
) -> Trained:
    """Trains a copy of the model to forget some records and to keep others.

    Example:
      model = vlm_mu_jax.load("runs/base")
      options = vlm_mu_jax.UnlearnOptions("npo", {"beta": 1.0, "retain_weight": 5.0}, steps=50)
      trained = vlm_mu_jax.unlearn(model, forget, retain, options)
      vlm_mu_jax.evaluate(trained.model, "runs/mini/data")

    Args:
      model: the start model, which stays as it is. It is also the reference model of NPO, RMU and KL.
      forget: unsafe records whose `answer` is the harmful one, for example `data.forget_retain.build(...).forget`.
        Image paths are relative to `records.root`, or to the working directory for a plain list.
      retain: records whose answers the model keeps giving.
      options: how; `UnlearnOptions()` by default.
      workdir: gets checkpoints, metrics and model/; an interrupted run with the same arguments goes on there. None
        writes nothing.
      progress: shows a bar.
      preferred: DPO: the forget records in their order with the answers to prefer. "idkdpo" writes its own.
      observers: who else watches.

    Returns:
      the trained model, its metrics and its provenance. Hashes of weights are in the provenance only with a workdir.

    Raises:
      InputError: an option or record does not fit, or the workdir holds another run or is being written.
      JobError: a metric is not finite, or SIGTERM came (then a checkpoint is saved first).
    """
    options = options or UnlearnOptions()
    workdir = None if workdir is None else at_home(workdir)
    spec = _spec(model, options)
    rows, counts = _rows(model, _parts(spec.objective, forget, retain, preferred, options), options)
    streams = streams_of(rows, model.processor, batch_size=options.batch_size, seed=options.seed)
    about = {
        "seed": options.seed,
        "objective": {"name": options.objective, **options.objective_options},
        "robust": dataclasses.asdict(options.robust),
        "steps": options.steps,
    }
    start = None if workdir is None else weights_hash(model.params)
    provenance = provenance_of(options.objective, about, counts, start)
    watch = dataclasses.replace(observers or Observers(progress), label=options.objective)
    storage = RunStorage(workdir, options.checkpoint_every, weights=start)
    with owned(workdir):
        if workdir is not None:
            write_files(workdir, data=counts, provenance=provenance)
        fitted = fit(spec, model.params, streams, storage=storage, observers=watch)
        trained = dataclasses.replace(model, params=fitted.params)
        if workdir is not None:
            trained, provenance = export(workdir, model, fitted, options.trainable, provenance)
    return Trained(trained, fitted.metrics, fitted.step, provenance, workdir)


def _spec(model: Model, options: UnlearnOptions) -> TrainingSpec:
    return TrainingSpec(
        model.config,
        make_objective(options.objective, **options.objective_options),
        options.optim,
        options.steps,
        options.trainable,
        options.accumulate,
        options.robust,
        options.seed,
    )


def _parts(
    objective: Objective,
    forget: Sequence[Record],
    retain: Sequence[Record],
    preferred: Sequence[Record] | None,
    options: UnlearnOptions,
) -> dict[str, Sequence[Record]]:
    """The records of every stream that the objective reads."""
    if "forget" not in objective.streams:
        raise InputError(f"objective {options.objective!r} forgets nothing; use vlm_mu_jax.train for it")
    if options.forget_target not in TARGETS:
        raise InputError(f"forget_target: {options.forget_target!r} is unknown; use one of {', '.join(TARGETS)}")
    parts = {"forget": forget, "retain": retain}
    if "preferred" in objective.streams:
        if preferred is None and options.objective == "idkdpo":
            preferred = forget_retain.preferred(forget, (), "idk", options.seed)
        if preferred is None or len(preferred) != len(forget):
            raise InputError(
                f"objective {options.objective!r} needs `preferred`, the forget records with other answers"
            )
        parts["preferred"] = preferred
    return {name: parts[name] for name in objective.streams}


def _rows(
    model: Model, parts: Mapping[str, Sequence[Record]], options: UnlearnOptions
) -> tuple[dict[str, Rows], dict[str, dict[str, int]]]:
    """Token rows of every part, and what was cut or dropped of it."""
    rows, counts = {}, {}
    for name, records in parts.items():
        target = options.forget_target if name == "forget" else "answer"
        root_of = roots_of(parts["forget"] if name == "preferred" else records)
        rows[name], counted = rows_of(
            records, root_of, model.processor, options.max_length, target, loss_of(name, "all")
        )
        counts[name] = {"records": len(records), **counted}
    return rows, counts
