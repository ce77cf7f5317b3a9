"""The training loop: streams in, trained parameters and metrics out; checkpoints and exact resume with a workdir.

The state after k updates and batch k decide everything that follows, so a resumed run repeats the loss curve bit for
bit on the same devices.

The step is compiled ahead of time, once for every length that rows are padded to. A compiled program accepts arrays of
its own shapes alone and raises an error for others, so a step is never compiled again unnoticed. No trace counter is
needed here; the tests have one.

Batches are built ahead. The host waits for the device only when that is `metrics.AHEAD` steps behind.

In a job of several processes all call `fit` with the same arguments. Process 0 writes metrics, all write checkpoints.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel import distributed, rules
from vlm_mu_jax.parallel.mesh import batch_shards, make_mesh, single_device_mesh
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.evaluation import EvaluationHistory
from vlm_mu_jax.training.feed import Feed, StepBatch
from vlm_mu_jax.training.goodput import Goodput
from vlm_mu_jax.training.metrics import Recorder
from vlm_mu_jax.training.preemption import notices
from vlm_mu_jax.training.prepare import NOWHERE, PreparedRun, prepare, store_constants
from vlm_mu_jax.training.spec import Observers, RunStorage, TrainingSpec
from vlm_mu_jax.training.step import TrainState
from vlm_mu_jax.training.trainable import Tree

NOBODY = Observers()


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
      params: the trained weights as an ordinary parameter tree, adapters merged in.
      metrics: every metric of the updates made by this call, one value per update.
      trainable: the trained leaves alone, LoRA pairs not yet merged.
      step: after which update these weights were taken.
      evaluations: every evaluation of the run so far, {"step": updates done, name: number}.
    """

    params: Params
    metrics: dict[str, np.ndarray]
    trainable: Tree
    step: int
    evaluations: tuple[dict[str, float], ...]


def fit(
    spec: TrainingSpec,
    params: Params,
    streams: Mapping[str, Stream],
    *,
    mesh: Mesh | None = None,
    donate: bool = False,
    storage: RunStorage = NOWHERE,
    observers: Observers = NOBODY,
) -> Fitted:
    """Trains.

    Example:
      spec = TrainingSpec(cfg, make_objective("sft"), OptimConfig(2e-4), steps=60)
      fitted = fit(spec, params, {"train": Stream(rows, 64, seed=0)})

    Args:
      spec: what is trained and how it is optimised.
      params: start weights, which stay valid. They are also the reference model of NPO, RMU and KL.
      streams: what `objective.streams` (and optionally `objective.optional_streams`) name.
      mesh: the devices; by default the first one, or all when the job has several processes. Batch sizes must divide
        by micro-batches times batch shards.
      donate: gives up the start weights that train; their memory is free during the run.
      storage: where the run is kept; by default nowhere.
      observers: who watches it; by default nobody.

    Raises:
      InputError: the parts do not fit together, or the workdir holds another run.
      JobError: a metric is not finite, or SIGTERM came (then a checkpoint is saved first).
    """
    evaluation, goodput = observers.evaluation, observers.goodput or Goodput()
    if evaluation is not None and evaluation.best is not None and storage.workdir is None:
        raise InputError("evaluation.best needs a workdir, where the best checkpoint is kept")
    mesh = mesh or (single_device_mesh() if jax.process_count() == 1 else make_mesh())
    streams = spec.streams(streams, batch_shards(mesh))
    params = rules.place(params, param_specs(spec.cfg), mesh)
    if storage.cache and not storage.weights:
        storage = dataclasses.replace(storage, weights=weights_hash(params))
    params, storage = _held(spec, params, mesh, storage, donate)
    workdir = storage.workdir
    saving = nullcontext() if workdir is None else Checkpoints(workdir / "checkpoints", storage.keep)
    with goodput.watching_compiles(), saving as checkpoints:
        prepared = prepare(
            spec,
            params,
            streams,
            mesh,
            storage=storage,
            checkpoints=checkpoints,
            donate=donate,
            progress=observers.progress,
        )
        if workdir is not None:
            store_constants(prepared.constants, workdir)
        history = EvaluationHistory(evaluation, workdir, prepared.done)
        with Recorder(workdir, prepared.done, goodput, observers.log, storage.tracker) as recorder:
            loop = _Loop(prepared, storage, observers, checkpoints, history, recorder, goodput, prepared.rates())
            trained, step = loop.run()
        with goodput.phase("checkpoint"):
            if checkpoints:
                checkpoints.wait()
        return Fitted(prepared.params(trained), recorder.history(), trained, step, history.rows)


def _held(
    spec: TrainingSpec, params: Params, mesh: Mesh, storage: RunStorage, donate: bool
) -> tuple[Params, RunStorage]:
    """The start weights as the run holds them, and their name in the caches."""
    held = spec.held(params, mesh)
    if spec.quantize is None:
        return held, storage
    if donate:
        kept = {id(leaf) for leaf in jax.tree.leaves(held)}
        for leaf in jax.tree.leaves(params):
            if id(leaf) not in kept:
                leaf.delete()
    if storage.weights:
        name = hashlib.sha256(f"{storage.weights} {spec.quantize}".encode()).hexdigest()
        storage = dataclasses.replace(storage, weights=name)
    return held, storage


@dataclasses.dataclass
class _Loop:
    """The steps of a prepared run, and what happens between them."""

    prepared: PreparedRun
    storage: RunStorage
    observers: Observers
    checkpoints: Checkpoints | None
    history: EvaluationHistory
    recorder: Recorder
    goodput: Goodput
    rates: np.ndarray
    programs: dict[tuple[int, ...], tuple[Callable, float]] = dataclasses.field(default_factory=dict)

    def run(self) -> tuple[Tree, int]:
        """Makes all updates that are left; the trained leaves and the update after which they were taken."""
        prepared, steps = self.prepared, self.prepared.spec.steps
        state, done = prepared.state, prepared.done
        self._evaluate(state, done)  # one that a SIGTERM left out
        with (
            Feed(prepared.streams, prepared.mesh, prepared.spec.accumulate, done, steps) as feed,
            self.goodput.phase("step"),
        ):
            numbers = range(done, done if self.history.exhausted else steps)
            if numbers:  # before the bar guesses the time left, and while SIGTERM still ends the process at once
                self._program(state, self._first(feed))
            with notices(self.checkpoints is not None) as asked:
                for k in self._shown(numbers):
                    state = self._update(state, k, self._next(feed))
                    done = k + 1
                    self._between(state, done, stop=asked(done))
                    if self.history.exhausted:
                        break
            self.recorder.flush()
        return self._best(state, done)

    def _shown(self, numbers: range) -> Iterable[int]:
        progress = self.observers.progress
        return progress(numbers, self.observers.label, len(numbers)) if progress else numbers

    def _update(self, state: TrainState, k: int, batch: StepBatch) -> TrainState:
        """Hands step `k` to the device; does not wait for it."""
        compiled, flops = self._program(state, batch)
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(state, self.prepared.frozen, batch.rows, self.prepared.constants)
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
            prepared = self.prepared
            with self.goodput.phase("compile"):
                compiled = prepared.step.lower(state, prepared.frozen, batch.rows, prepared.constants).compile()
                self.programs[batch.lengths] = compiled, prepared.flops(batch.rows)
                self.recorder.start(list(prepared.mesh.devices.flat))
        return self.programs[batch.lengths]

    def _between(self, state: TrainState, done: int, stop: bool) -> None:
        """After a step: evaluate, save, and leave when that was asked for."""
        steps, every = self.prepared.spec.steps, self.storage.checkpoint_every
        measured = not stop and self._evaluate(state, done)
        if self.checkpoints and (measured or stop or done == steps or (every and done % every == 0)):
            with self.goodput.phase("checkpoint"):
                self.recorder.flush()  # raises before a state that is not finite could be saved
                best = self.history.best_step
                self.checkpoints.save(done, state.trainable, state.opt_state, self.prepared.identity, best)
        if stop and (done < steps or self.history.due(done, steps)):
            raise JobError(
                f"stopped by SIGTERM after step {done} of {steps}; the state is saved, run the same command to go on",
                everywhere=True,
            )

    def _evaluate(self, state: TrainState, done: int) -> bool:
        if not self.history.due(done, self.prepared.spec.steps):
            return False
        with self.goodput.phase("evaluation"):
            self.recorder.flush()
            values = self.history.measure(done, self.prepared.params(state.trainable))
            self.recorder.evaluated(done, values)
            if self.observers.on_evaluation is not None and distributed.first():
                self.observers.on_evaluation(done, values)
        return True

    def _best(self, state: TrainState, done: int) -> tuple[Tree, int]:
        """The trained leaves of the best evaluation and its step; the last ones without a rule."""
        best = self.history.best_step
        if best is None or best == done:
            return state.trainable, done
        with self.goodput.phase("checkpoint"):
            self.checkpoints.wait()
            return self.checkpoints.trainable(best, state.trainable), best
