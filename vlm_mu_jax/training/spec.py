"""What a training run is, in three parts: what it computes, where it is kept, and who watches it.

`TrainingSpec` decides the result. `RunStorage` and `Observers` do not: the same spec gives the same weights with or
without a workdir and a progress bar.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.lora import LINEARS, PREFIX
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.model.stored import hold
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training.evaluation import EvaluationPlan
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.metrics import Log
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.trainable import ALL, Selection, selected_paths, trainable_specs


@dataclasses.dataclass(frozen=True)
class TrainingSpec:
    """What a run computes, wherever it runs.

    Attributes:
      cfg: the model's configuration. `cfg.with_text(remat="full")` trades time for memory.
      objective: what is minimised, from `objectives.registry.make_objective`.
      optim: the optimizer and its learning rate.
      steps: optimizer updates in all, including those before a resume.
      trainable: which parameters train; by default all.
      accumulate: micro-batches per step.
      robust: how the gradient of the forget terms is taken, see `training.robust`.
      seed: draws new LoRA pairs and RMU's control vector. Streams carry seeds of their own.
      quantize: holds the decoder's linear maps in few bits while adapters train; see `model.stored`.

    Raises:
      InputError: a number that is too small, or a choice of parameters that the model does not have.
    """

    cfg: ModelConfig
    objective: Objective
    optim: OptimConfig
    steps: int
    trainable: Selection = ALL
    accumulate: int = 1
    robust: Robust = PLAIN
    seed: int = 0
    quantize: Scheme | None = None

    def __post_init__(self) -> None:
        """What is wrong is told before data are read and weights are loaded."""
        for name, least in (("steps", 1), ("accumulate", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        trainable_specs(self.trainable, param_specs(self.cfg))

    def held(self, params: Params, mesh: Mesh) -> Params:
        """The start weights as the run holds them: in few bits where `quantize` says so.

        Raises:
          InputError: a linear map of the decoder trains, which codes cannot.
        """
        if self.quantize is None:
            return params
        specs = param_specs(self.cfg)
        paths = [*selected_paths(self.trainable, specs), *(path for path, _ in self.trainable.slices)]
        if not self.trainable.lora_rank or any(path.removeprefix(PREFIX) in LINEARS for path in paths):
            raise InputError(
                f"config.model.quantize={self.quantize}: weights in few bits do not train; set train.lora_rank, and a "
                "train.select without the decoder's linear maps, such as ()"
            )
        return hold(params, self.quantize, specs, mesh)

    def streams(self, given: Mapping[str, Stream], shards: int) -> dict[str, Stream]:
        """The given streams in the objective's order.

        Args:
          given: streams by name.
          shards: into how many parts the mesh splits a batch.

        Raises:
          InputError: a stream is missing or not used, or a batch size does not divide.
        """
        known = (*self.objective.streams, *self.objective.optional_streams)
        for name in given:
            if name not in known:
                raise InputError(f"stream {name!r} is not used by this objective; it reads {', '.join(known)}")
        for name in self.objective.streams:
            if name not in given:
                raise InputError(f"this objective needs a {name!r} stream")
        if self.objective.couples_batch and self.accumulate > 1:
            raise InputError(
                "reduction batch_token_mean has one sigmoid per batch and cannot be accumulated; set accumulate to 1"
            )
        for name, stream in given.items():
            if stream.batch_size % (self.accumulate * shards):
                raise InputError(
                    f"the batch size of {name}, {stream.batch_size}, is not a multiple of "
                    f"accumulate x data x fsdp = {self.accumulate} x {shards}"
                )
        return {name: given[name] for name in known if name in given}

    def identity(self, streams: Mapping[str, Stream], weights: str | None) -> dict[str, str]:
        """What a resumed run must share with the run that wrote the checkpoint. The mesh may change."""
        data = hashlib.sha256("".join(f"{name}{stream.fingerprint()}" for name, stream in streams.items()).encode())
        return {
            "model": repr(self.cfg.with_text(attention="xla")),  # another kernel is the same model
            "objective": repr(self.objective),
            "optimizer": repr(self.optim),
            "steps": str(self.steps),
            "seed": str(self.seed),
            "selection": repr(self.trainable),
            "accumulation": str(self.accumulate),
            "data": data.hexdigest(),
            "start weights": str(weights),
            "robustness": repr(self.robust),
            **({} if self.quantize is None else {"quantised base": str(self.quantize)}),
        }


@dataclasses.dataclass(frozen=True)
class RunStorage:
    """Where a run is kept.

    Attributes:
      workdir: gets metrics and checkpoints. A run found there goes on. None keeps nothing.
      checkpoint_every: updates between checkpoints; 0 saves only at the end.
      keep: how many of the newest checkpoints stay.
      reference_cache: folder of the reference log-probabilities and image features; the workdir by default.
      weights: hash of the start weights (`storage.identity.weights_hash`), where the caller knows it already.
      tracker: what shows the metrics, of `trackers.PACKAGES`.
    """

    workdir: Path | None = None
    checkpoint_every: int = 0
    keep: int = 2
    reference_cache: Path | None = None
    weights: str | None = None
    tracker: str = "tensorboard"

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0 or self.keep < 1:
            raise InputError(
                f"checkpoint_every {self.checkpoint_every} must be at least 0, and keep {self.keep} at least 1"
            )

    @property
    def cache(self) -> Path | None:
        """Folder of what is computed once before training."""
        return self.reference_cache or self.workdir


@dataclasses.dataclass(frozen=True)
class Observers:
    """Who watches a run.

    Attributes:
      progress: shows a bar over the steps and over what is computed before them.
      label: what the bar over the steps is called.
      log: called with the newest row of metrics every `metrics.EVERY` steps.
      goodput: collects the time per phase. Give one to read it afterwards.
      evaluation: what is measured in between. With a rule for the best, the best weights are the result, not the last.
      on_evaluation: called with (updates done, results) after every evaluation, in process 0 alone.
    """

    progress: Progress | None = None
    label: str = "train"
    log: Log | None = None
    goodput: Goodput | None = None
    evaluation: EvaluationPlan | None = None
    on_evaluation: Callable[[int, Mapping[str, float]], None] | None = None
