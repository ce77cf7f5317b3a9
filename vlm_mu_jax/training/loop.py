"""The training loop: streams in, trained parameters and metrics out; checkpoints and exact resume with a workdir.

The state after k updates and the batch k are all there is: a resumed run repeats the loss curve bit for bit on the
same devices. The step is compiled once for every length that rows are padded to, and by hand, so it cannot be compiled
again unnoticed; batches are built ahead, and the host waits for the device only when that is `metrics.AHEAD` steps
behind.

In a job of several processes all call `train` with the same arguments. Process 0 writes metrics, all write checkpoints.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import param_specs
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import batch_shards, make_mesh, single_device_mesh
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.best import Evaluation, Results
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.feed import Feed, StepBatch
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.metrics import Log, Recorder
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.preemption import notices
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.start import Job, Progress, Task, prepare, store_constants
from vlm_mu_jax.training.step import TrainState
from vlm_mu_jax.training.trainable import ALL, Selection, Tree


def train(
    cfg: LlavaConfig,
    params: Params,
    streams: Mapping[str, Stream],
    objective: Any,
    optim: OptimConfig,
    steps: int,
    *,
    trainable: Selection = ALL,
    robust: Robust = PLAIN,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    workdir: str | Path | None = None,
    checkpoint_every: int = 0,
    keep: int = 2,
    evaluation: Evaluation | None = None,
    donate: bool = False,
    weights: str | None = None,
    reference_cache: str | Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    goodput: Goodput | None = None,
    on_trained: Callable[[Tree], None] | None = None,
    label: str = "train",
    seed: int = 0,
) -> tuple[Params, dict[str, np.ndarray]]:
    """Trains and returns (parameters, metrics per step).

    Example:
      objective = make_objective("sft")
      params, metrics = train(cfg, params, {"train": Stream(rows, 64, seed=0)}, objective, OptimConfig(2e-4), 60)

    Args:
      cfg: model configuration; `cfg.with_text(remat="full")` trades time for memory.
      params: start weights, which stay valid. They are also the reference model of NPO, RMU and KL.
      streams: what `objective.streams` (and optionally `objective.optional_streams`) name.
      objective: from `objectives.registry.make_objective`.
      steps: optimizer updates in all, including those before a resume.
      trainable: what trains; the default is everything.
      robust: how the gradient of forget terms is taken; see `training.robust`.
      mesh: devices; by default the first one, or all when the job has several processes. Batch sizes must divide by
        micro-batches times batch shards.
      accumulate: micro-batches per step.
      workdir: gets metrics, events, checkpoints; a run found there goes on. None keeps nothing.
      checkpoint_every: updates between checkpoints (0: at the end only).
      keep: newest checkpoints that stay.
      evaluation: what to measure meanwhile. With a rule for the best, the best weights are returned, not the last.
      donate: start weights that train are given up; their memory is free during the run.
      weights: hash of the start weights (`reference.weights_hash`), when it is known already.
      reference_cache: folder of NPO's reference log-probabilities; `workdir` by default.
      progress: called as progress(iterable, label, total); shows a bar.
      log: called with the newest row of metrics every `metrics.EVERY` steps.
      goodput: keeps the time per phase; give one to read it afterwards.
      on_trained: called with the trained leaves at the end, LoRA pairs not yet merged.
      seed: for new LoRA pairs and RMU's control vector (streams carry their own).

    Raises:
      InputError: the pieces do not fit together, or the workdir holds another run.
      JobError: a metric is not finite, or SIGTERM came (then a checkpoint is saved first).
    """
    if evaluation is not None and evaluation.best is not None and workdir is None:
        raise InputError("evaluation.best needs a workdir, where the best checkpoint is kept")
    workdir = None if workdir is None else Path(workdir)
    mesh = mesh or (single_device_mesh() if jax.process_count() == 1 else make_mesh())
    goodput = goodput or Goodput()
    task = Task(cfg, objective, optim, steps, trainable, accumulate, seed, robust)
    streams = task.streams(streams, batch_shards(mesh))
    params = rules.place(params, param_specs(cfg), mesh)
    cache = Path(reference_cache) if reference_cache else workdir
    weights = weights or (weights_hash(params) if cache else None)
    saving = nullcontext() if workdir is None else Checkpoints(workdir / "checkpoints", keep)
    with goodput.watching_compiles(), saving as checkpoints:
        job = prepare(
            task, params, streams, mesh, checkpoints, weights=weights, cache=cache, donate=donate, progress=progress
        )
        if workdir is not None:
            store_constants(job.constants, workdir)
        results = Results(evaluation, workdir, job.done)
        with Recorder(workdir, job.done, goodput, log) as recorder:
            loop = _Loop(job, checkpoints, checkpoint_every, results, recorder, goodput, job.rates())
            trained = loop.run(lambda numbers: progress(numbers, label, len(numbers)) if progress else numbers)
        with goodput.phase("checkpoint"):
            if checkpoints:
                checkpoints.wait()
        if on_trained is not None:
            on_trained(trained)
        return job.params(trained), recorder.history()


@dataclasses.dataclass
class _Loop:
    """Steps over a prepared job, with what happens between them."""

    job: Job
    checkpoints: Checkpoints | None
    checkpoint_every: int
    results: Results
    recorder: Recorder
    goodput: Goodput
    rates: np.ndarray
    programs: dict[tuple[int, ...], tuple[Callable, float]] = dataclasses.field(default_factory=dict)

    def run(self, show: Callable[[range], Iterable[int]]) -> Any:
        """Updates from where the job stands to its last step; returns the trained leaves."""
        job, steps = self.job, self.job.task.steps
        state, done = job.state, job.done
        self._evaluate(state, done)  # one that a SIGTERM left out
        with Feed(job.streams, job.mesh, job.task.accumulate, done, steps) as feed, self.goodput.phase("step"):
            numbers = range(done, done if self.results.exhausted else steps)
            if numbers:  # before the bar guesses the time left, and while SIGTERM still ends the process at once
                self._program(state, self._first(feed))
            with notices(self.checkpoints is not None) as asked:
                for k in show(numbers):
                    state = self._update(state, k, self._next(feed))
                    done = k + 1
                    self._between(state, done, stop=asked(done))
                    if self.results.exhausted:
                        break
            self.recorder.flush()
        return self._best(state, done)

    def _update(self, state: TrainState, k: int, batch: StepBatch) -> TrainState:
        """Hands step `k` to the device; does not wait for it."""
        compiled, flops = self._program(state, batch)
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(state, self.job.frozen, batch.rows, self.job.constants)
        known = {"learning_rate": float(self.rates[k]), "tokens": batch.tokens, "flops": flops}
        self.recorder.add(k + 1, metrics, known)
        return state

    def _next(self, feed: Feed) -> StepBatch:
        """The wait is a loss only when the device has run dry meanwhile."""
        start = time.monotonic()
        batch = feed.next()
        if self.recorder.idle():
            self.goodput.shift(time.monotonic() - start, "data")
        return batch

    def _first(self, feed: Feed) -> StepBatch:
        with self.goodput.phase("data"):
            return feed.peek()

    def _program(self, state: TrainState, batch: StepBatch) -> tuple[Callable, float]:
        """The compiled step for rows of this batch's lengths, and its model FLOPs."""
        if batch.lengths not in self.programs:
            job = self.job
            with self.goodput.phase("compile"):
                compiled = job.step.lower(state, job.frozen, batch.rows, job.constants).compile()
                self.programs[batch.lengths] = compiled, job.flops(batch.rows)
                self.recorder.start(list(job.mesh.devices.flat))
        return self.programs[batch.lengths]

    def _between(self, state: TrainState, done: int, stop: bool) -> None:
        """After a step: evaluate, save, and leave when that was asked for."""
        steps, every = self.job.task.steps, self.checkpoint_every
        measured = not stop and self._evaluate(state, done)
        if self.checkpoints and (measured or stop or done == steps or (every and done % every == 0)):
            with self.goodput.phase("checkpoint"):
                self.recorder.flush()  # raises before a state that is not finite could be saved
                best = self.results.best_step
                self.checkpoints.save(done, state.trainable, state.opt_state, self.job.identity, best)
        if stop and (done < steps or self.results.due(done, steps)):
            raise JobError(
                f"stopped by SIGTERM after step {done} of {steps}; the state is saved, run the same command to go on"
            )

    def _evaluate(self, state: TrainState, done: int) -> bool:
        if not self.results.due(done, self.job.task.steps):
            return False
        with self.goodput.phase("evaluation"):
            self.recorder.flush()
            self.recorder.evaluated(done, self.results.measure(done, self.job.params(state.trainable)))
        return True

    def _best(self, state: TrainState, done: int) -> Any:
        """The trained leaves of the best evaluation; the last ones without a rule."""
        best = self.results.best_step
        if best is None or best == done:
            return state.trainable
        with self.goodput.phase("checkpoint"):
            self.checkpoints.wait()
            return self.checkpoints.trainable(best, state.trainable)
