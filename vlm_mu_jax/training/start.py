"""How a run begins: do its parts fit together, what identifies it, and its state at step 0 or from a checkpoint."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import param_specs
from vlm_mu_jax.model.params import Params, flatten
from vlm_mu_jax.parallel import distributed, rules
from vlm_mu_jax.parallel.mesh import put, replicated
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.duals import with_duals
from vlm_mu_jax.training.features import with_features
from vlm_mu_jax.training.flops import train_step_flops
from vlm_mu_jax.training.optimizer import OptimConfig, learning_rate, make_optimizer
from vlm_mu_jax.training.reference import reference_nll
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import Dtypes, Selection, Tree, dtypes, finished, rests, split, trainable_specs


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run computes, wherever it runs."""

    cfg: LlavaConfig
    objective: Any
    optim: OptimConfig
    steps: int
    trainable: Selection
    accumulate: int
    seed: int
    robust: Robust = PLAIN

    def streams(self, given: Mapping[str, Stream], shards: int) -> dict[str, Stream]:
        """Those given, in the objective's order.

        Args:
          shards: into how many parts the mesh splits a batch.

        Raises:
          InputError: one is missing or not used, or a batch size does not divide.
        """
        known = (*self.objective.streams, *self.objective.optional_streams)
        for name in given:
            if name not in known:
                raise InputError(f"stream {name!r} is not used by this objective; it reads {', '.join(known)}")
        for name in self.objective.streams:
            if name not in given:
                raise InputError(f"this objective needs a {name!r} stream")
        if self.accumulate < 1:
            raise InputError(f"accumulate must be at least 1, not {self.accumulate}")
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
        """What a resumed run must share with the one that wrote the checkpoint. The mesh may change."""
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
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is ready: (state, frozen, rows, constants) -> step -> (state, metrics)."""

    task: Task
    mesh: Mesh
    streams: dict[str, Stream]
    state: TrainState  # after `done` updates
    done: int
    step: Any
    frozen: Tree
    constants: dict[str, jax.Array]
    kinds: Dtypes
    identity: dict[str, str]

    def rates(self) -> np.ndarray:
        """Learning rate of every step."""
        schedule = learning_rate(self.task.optim, self.task.steps)
        return jax.device_get(jax.vmap(schedule)(jnp.arange(self.task.steps)))

    def flops(self, rows: dict[str, Any]) -> float:
        """Model FLOPs of one update over all devices."""
        return train_step_flops(self.task.cfg, self.task.objective, self.task.trainable, rows)

    def params(self, trainable: Tree) -> Params:
        """The weights as an ordinary parameter tree."""
        return finished(trainable, self.frozen, self.task.trainable, self.kinds)


def prepare(
    task: Task,
    params: Params,
    streams: Mapping[str, Stream],
    mesh: Mesh,
    checkpoints: Checkpoints | None,
    *,
    weights: str | None,
    cache: Path | None,
    donate: bool,
    progress: Progress | None,
) -> Job:
    """Image features, reference log-probabilities, what trains and what does not, the state (of the newest checkpoint,
    if there is one), the step.

    Args:
      params: on the mesh. donate: those that train are deleted.
      weights: their hash, needed with checkpoints or a cache.

    Raises:
      InputError: the checkpoint is of another run, or cannot be read.
    """
    specs = param_specs(task.cfg)
    identity = task.identity(streams, weights)
    if task.cfg.vision is not None and rests("vision/", task.trainable, specs):
        streams = with_features(params, streams, task.cfg, mesh, cache=cache, progress=progress)
    streams = _with_references(task, params, streams, mesh, cache, weights, progress)
    optimizer, kinds = with_duals(make_optimizer(task.optim, task.steps), task.objective), dtypes(params)
    learned, frozen = split(params, task.trainable, specs, jax.random.key(task.seed), task.objective.needs_reference)
    if donate:
        for path in flatten(params).keys() - flatten(frozen).keys():
            flatten(params)[path].delete()
    places = state_places(learned, trainable_specs(task.trainable, specs), optimizer, mesh)
    latest = None if checkpoints is None else checkpoints.latest()
    if latest is None:
        state = _first(learned, optimizer, places)
    else:
        like = jax.eval_shape(lambda tree: (tree, optimizer.init(tree)), learned)
        del learned  # before the restored ones take their place
        state = _restored(checkpoints, latest, like, places, identity)
    constants = jax.tree.map(lambda x: put(x, replicated(mesh)), task.objective.constants(task.cfg.text.D, task.seed))
    step = make_step(task.cfg, task.objective, task.trainable, kinds, optimizer, places, task.robust)
    return Job(task, mesh, streams, state, latest or 0, step, frozen, constants, kinds, identity)


def _with_references(
    task: Task,
    params: Params,
    streams: Mapping[str, Stream],
    mesh: Mesh,
    cache: Path | None,
    weights: str | None,
    progress: Progress | None,
) -> dict[str, Stream]:
    """The streams the objective compares with the reference, carrying its NLL per row."""
    prepared = dict(streams)
    for name in task.objective.reference_nll_streams:
        stream = streams[name]
        nll = reference_nll(
            params,
            stream,
            task.cfg,
            mesh,
            rows_per_batch=stream.batch_size // task.accumulate,
            cache=cache,
            weights=weights,
            progress=progress,
        )
        prepared[name] = stream.with_reference(nll)
    return prepared


def state_places(learned: Tree, specs: Tree, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shardings of the state; optimizer moments lie where their parameter lies."""
    everywhere, places = replicated(mesh), rules.shardings(specs, mesh)
    abstract = jax.eval_shape(optimizer.init, learned)
    moments = optax.tree_map_params(
        optimizer, lambda _, place: place, abstract, places, transform_non_params=lambda _: everywhere
    )
    return TrainState(everywhere, places, moments)


def _first(learned: Tree, optimizer: optax.GradientTransformation, places: TrainState) -> TrainState:
    """The state at step 0."""
    learned = jax.tree.map(put, learned, places.trainable)
    opt_state = jax.jit(optimizer.init, out_shardings=places.opt_state)(learned)
    return TrainState(put(np.int32(0), places.step), learned, opt_state)


def _restored(
    checkpoints: Checkpoints, step: int, like: tuple[Any, Any], places: TrainState, identity: dict[str, str]
) -> TrainState:
    before = checkpoints.run(step)
    changed = [name for name in identity if before.get(name) != identity[name]]
    if changed:
        raise InputError(
            f"the workdir holds a run with other {', '.join(changed)}; use another --workdir or delete its checkpoints"
        )
    wanted = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        like,
        (places.trainable, places.opt_state),
    )
    return TrainState(put(np.int32(step), places.step), *checkpoints.state(step, *wanted))


def store_constants(constants: Mapping[str, jax.Array], workdir: Path) -> None:
    """RMU's control vector and the like, as NAME.npy."""
    if distributed.first():
        workdir.mkdir(parents=True, exist_ok=True)
        for name, value in constants.items():
            np.save(workdir / f"{name}.npy", jax.device_get(value))
