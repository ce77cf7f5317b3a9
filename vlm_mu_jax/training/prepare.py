"""Prepares a run: everything that is computed before its first step, and the state it starts from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.model.params import Params, flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel import distributed, rules
from vlm_mu_jax.parallel.mesh import batch_shards, put, replicated
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.duals import with_duals
from vlm_mu_jax.training.features import with_features
from vlm_mu_jax.training.flops import train_step_flops
from vlm_mu_jax.training.optimizer import learning_rate, make_optimizer
from vlm_mu_jax.training.reference import reference_nll, rows_of_steps
from vlm_mu_jax.training.spec import RunStorage, TrainingSpec
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import Dtypes, Tree, dtypes, finished, rests, split, trainable_specs

NOWHERE = RunStorage()
REFERENCE_BATCH = 4  # times the rows of a micro-batch: a pass without gradient keeps no activations


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to step.

    Attributes:
      spec: what it computes.
      streams: the data, with image features and reference log-probabilities where the run needs them.
      state: the state after `done` updates.
      step: the jitted step, (state, frozen, rows, constants) -> (state, metrics).
      frozen: the parameters that do not train.
      constants: arrays drawn once for the run, such as RMU's control vector.
      kinds: the dtype of every parameter.
      identity: what a checkpoint of this run says about it.
    """

    spec: TrainingSpec
    mesh: Mesh
    streams: dict[str, Stream]
    state: TrainState
    done: int
    step: Any
    frozen: Tree
    constants: dict[str, jax.Array]
    kinds: Dtypes
    identity: dict[str, str]

    def rates(self) -> np.ndarray:
        """Learning rate of every step."""
        schedule = learning_rate(self.spec.optim, self.spec.steps)
        return jax.device_get(jax.jit(jax.vmap(schedule))(np.arange(self.spec.steps)))

    def flops(self, rows: dict[str, Any]) -> float:
        """Model FLOPs of one update over all devices."""
        return train_step_flops(self.spec.cfg, self.spec.objective, self.spec.trainable, rows)

    def params(self, trainable: Tree) -> Params:
        """The weights as an ordinary parameter tree."""
        return finished(trainable, self.frozen, self.spec.trainable, self.kinds)


def prepare(
    spec: TrainingSpec,
    params: Params,
    streams: Mapping[str, Stream],
    mesh: Mesh,
    *,
    storage: RunStorage = NOWHERE,
    checkpoints: Checkpoints | None = None,
    donate: bool = False,
    progress: Progress | None = None,
) -> PreparedRun:
    """Computes image features and reference log-probabilities, splits the weights and builds state and step.

    Args:
      spec: what the run computes.
      params: start weights, on the mesh.
      streams: the objective's streams, as `TrainingSpec.streams` returns them.
      mesh: the devices.
      storage: `weights` and `cache` are read; `weights` must be set where there are checkpoints or a cache.
      checkpoints: those of the workdir. The state comes from the newest one, if there is one.
      donate: deletes those of `params` that train, so that their memory is free.
      progress: shown over features and reference log-probabilities.

    Raises:
      InputError: the checkpoint is of another run, or cannot be read.
    """
    specs = param_specs(spec.cfg)
    identity = spec.identity(streams, storage.weights)
    if spec.cfg.vision is not None and rests("vision/", spec.trainable, specs):
        streams = with_features(params, streams, spec.cfg, mesh, cache=storage.cache, progress=progress)
    streams = _with_references(spec, params, streams, mesh, storage, progress)
    optimizer, kinds = with_duals(make_optimizer(spec.optim, spec.steps), spec.objective), dtypes(params)
    learned, frozen = split(params, spec.trainable, specs, jax.random.key(spec.seed), spec.objective.needs_reference)
    if donate:
        for path in flatten(params).keys() - flatten(frozen).keys():
            flatten(params)[path].delete()
    places = state_places(learned, trainable_specs(spec.trainable, specs), optimizer, mesh)
    latest = None if checkpoints is None else checkpoints.latest()
    if latest is None:
        state = _first(learned, optimizer, places)
    else:
        like = jax.eval_shape(lambda tree: (tree, optimizer.init(tree)), learned)
        del learned  # before the restored ones take their place
        state = _restored(checkpoints, latest, like, places, identity)
    constants = jax.tree.map(lambda x: put(x, replicated(mesh)), spec.objective.constants(spec.cfg.text.D, spec.seed))
    step = make_step(spec.cfg, spec.objective, spec.trainable, kinds, optimizer, places, spec.robust)
    return PreparedRun(spec, mesh, dict(streams), state, latest or 0, step, frozen, constants, kinds, identity)


def _with_references(
    spec: TrainingSpec,
    params: Params,
    streams: Mapping[str, Stream],
    mesh: Mesh,
    storage: RunStorage,
    progress: Progress | None,
) -> dict[str, Stream]:
    """The streams, with a reference log-probability on every row that the objective compares with one."""
    prepared = dict(streams)
    for name in spec.objective.reference_nll_streams:
        stream = streams[name]
        rows = rows_of_steps(stream, spec.steps)
        nll = reference_nll(
            params,
            stream,
            spec.cfg,
            mesh,
            rows_per_batch=_reference_batch(stream.batch_size // spec.accumulate, len(rows), batch_shards(mesh)),
            rows=rows,
            cache=storage.cache,
            weights=storage.weights,
            progress=progress,
        )
        prepared[name] = stream.with_reference(nll)
    return prepared


def _reference_batch(micro_batch: int, rows: int, shards: int) -> int:
    """Rows of one forward pass over `rows` rows; a multiple of the mesh's batch shards, as the micro-batch is."""
    return min(REFERENCE_BATCH * micro_batch, -(-rows // shards) * shards)


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
            with complete_file(workdir / f"{name}.npy") as partial:
                np.save(partial, jax.device_get(value))
