"""The training loop: streams in, trained parameters and metrics out; checkpoints and exact resume with a workdir.

The state after k updates and the batch k are all there is: a resumed run repeats the loss curve bit for bit on the
same devices. The host waits for the device only when metrics are fetched, every `metrics.EVERY` steps.
"""

import hashlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vlm_mu_jax.data.batches import Stream
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import param_specs
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import batch_shards, put_batch, replicated, single_device_mesh
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.metrics import Recorder
from vlm_mu_jax.training.optimizer import OptimConfig, learning_rate, make_optimizer
from vlm_mu_jax.training.reference import reference_nll, weights_hash
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import ALL, Selection, dtypes, finished, split, trainable_specs

Progress = Callable[..., Iterable]


def train(
    cfg: LlavaConfig,
    params: Params,
    streams: Mapping[str, Stream],
    objective: Any,
    optim: OptimConfig,
    steps: int,
    *,
    trainable: Selection = ALL,
    mesh: Mesh | None = None,
    accumulate: int = 1,
    workdir: str | Path | None = None,
    checkpoint_every: int = 0,
    keep: int = 2,
    reference_cache: str | Path | None = None,
    progress: Progress | None = None,
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
      mesh: devices; the first one by default. Batch sizes must divide by micro-batches times batch shards.
      accumulate: micro-batches per step.
      workdir: gets metrics, events, checkpoints; a run found there goes on. None keeps nothing.
      checkpoint_every: updates between checkpoints (0: at the end only).
      reference_cache: folder of NPO's reference log-probabilities; `workdir` by default.
      progress: called as progress(iterable, label, total); shows a bar.
      seed: for new LoRA pairs and RMU's control vector (streams carry their own).

    Raises:
      InputError: the pieces do not fit together, or the workdir holds another run.
      JobError: a metric is not finite, or SIGTERM came (then a checkpoint is saved first).
    """
    mesh = mesh or single_device_mesh()
    _check(streams, objective, accumulate, batch_shards(mesh))
    streams = {name: streams[name] for name in (*objective.streams, *objective.optional_streams) if name in streams}
    workdir = None if workdir is None else Path(workdir)
    specs = param_specs(cfg)
    params = rules.place(params, specs, mesh)
    weights = weights_hash(params) if workdir or reference_cache else None
    cache = Path(reference_cache) if reference_cache else workdir
    run = _identity(cfg, streams, objective, optim, steps, trainable, accumulate, seed, weights) if workdir else {}
    streams = _with_references(params, streams, objective, cfg, mesh, accumulate, cache, weights, progress)

    optimizer = make_optimizer(optim, steps)
    learned, frozen = split(params, trainable, specs, jax.random.key(seed), objective.needs_reference)
    state, shardings = _initial_state(learned, trainable_specs(trainable, specs), optimizer, mesh)
    constants = jax.device_put(objective.constants(cfg.text.D, seed), replicated(mesh))
    _store_constants(constants, workdir)
    kinds = dtypes(params)
    step = make_step(cfg, objective, trainable, kinds, optimizer, shardings)

    rates = jax.device_get(jax.vmap(learning_rate(optim, steps))(jnp.arange(steps)))

    with nullcontext() if workdir is None else Checkpoints(workdir / "checkpoints", keep) as checkpoints:
        state, start = _resume(state, checkpoints, run)
        numbers = progress(range(start, steps), label, steps - start) if progress else range(start, steps)
        with Recorder(workdir, start) as recorder, _termination(checkpoints is not None) as terminated:
            for k in numbers:
                rows = {
                    name: put_batch(_micro(stream[k], accumulate), mesh, axis=1) for name, stream in streams.items()
                }
                state, metrics = step(state, frozen, rows, constants)
                recorder.add(k + 1, metrics, {"learning_rate": float(rates[k])})
                wanted = k + 1 == steps or (checkpoint_every and (k + 1) % checkpoint_every == 0)
                if checkpoints and (wanted or terminated()):
                    recorder.flush()  # raises before a state that is not finite could be saved
                    checkpoints.save(k + 1, state.trainable, state.opt_state, run)
                    _stop_if(terminated(), k + 1, steps)
            recorder.flush()
    return finished(state.trainable, frozen, trainable, kinds), recorder.history()


def _check(streams: Mapping[str, Stream], objective: Any, accumulate: int, shards: int) -> None:
    known = (*objective.streams, *objective.optional_streams)
    for name in streams:
        if name not in known:
            raise InputError(f"stream {name!r} is not used by this objective; it reads {', '.join(known)}")
    for name in objective.streams:
        if name not in streams:
            raise InputError(f"this objective needs a {name!r} stream")
    if accumulate < 1:
        raise InputError(f"accumulate must be at least 1, not {accumulate}")
    if objective.couples_batch and accumulate > 1:
        raise InputError(
            "reduction batch_token_mean has one sigmoid per batch and cannot be accumulated; set accumulate to 1"
        )
    for name, stream in streams.items():
        if stream.batch_size % (accumulate * shards):
            raise InputError(
                f"the batch size of {name}, {stream.batch_size}, is not a multiple of "
                f"accumulate x data x fsdp = {accumulate} x {shards}"
            )


def _micro(batch: Any, accumulate: int) -> Any:
    """[B, ...] -> [accumulate, B / accumulate, ...] on the host."""
    return jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)


def _with_references(
    params: Params, streams: Mapping[str, Stream], objective: Any, cfg: LlavaConfig, mesh: Mesh, accumulate: int,
    cache: Path | None, weights: str | None, progress: Progress | None,
) -> dict[str, Stream]:  # fmt: skip
    """The streams the objective compares with the reference, carrying its NLL per row."""
    prepared = dict(streams)
    for name in objective.reference_nll_streams:
        stream = streams[name]
        nll = reference_nll(
            params, stream, cfg, mesh,
            rows_per_batch=stream.batch_size // accumulate, cache=cache, weights=weights, progress=progress,
        )  # fmt: skip
        prepared[name] = stream.with_reference(nll)
    return prepared


def _initial_state(
    learned: Any, learned_specs: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """The state at step 0 on the mesh, and its shardings; optimizer moments lie where their parameter lies."""
    everywhere = replicated(mesh)
    places = rules.shardings(learned_specs, mesh)
    abstract = jax.eval_shape(optimizer.init, learned)
    moments = optax.tree_map_params(
        optimizer, lambda _, place: place, abstract, places, transform_non_params=lambda _: everywhere
    )
    learned = jax.device_put(learned, places)
    opt_state = jax.jit(optimizer.init, out_shardings=moments)(learned)
    count = jax.device_put(jnp.zeros((), jnp.int32), everywhere)
    return TrainState(count, learned, opt_state), TrainState(everywhere, places, moments)


def _resume(state: TrainState, checkpoints: Checkpoints | None, run: dict[str, str]) -> tuple[TrainState, int]:
    """The newest saved state, if there is one of the same run."""
    latest = None if checkpoints is None else checkpoints.latest()
    if checkpoints is None or latest is None:
        return state, 0
    before = checkpoints.run(latest)
    changed = [name for name in run if before.get(name) != run[name]]
    if changed:
        raise InputError(
            f"the workdir holds a run with other {', '.join(changed)}; use another --workdir or delete its checkpoints"
        )
    learned, opt_state = checkpoints.state(latest, state.trainable, state.opt_state)
    return TrainState(jax.device_put(jnp.int32(latest), state.step.sharding), learned, opt_state), latest


def _identity(
    cfg: LlavaConfig, streams: Mapping[str, Stream], objective: Any, optim: OptimConfig, steps: int,
    trainable: Selection, accumulate: int, seed: int, weights: str | None,
) -> dict[str, str]:  # fmt: skip
    """What a resumed run must share with the one that wrote the checkpoint. The mesh may change."""
    data = hashlib.sha256("".join(f"{name}{stream.fingerprint()}" for name, stream in streams.items()).encode())
    return {
        "model": repr(cfg), "objective": repr(objective), "optimizer": repr(optim), "steps": str(steps),
        "seed": str(seed), "selection": repr(trainable), "accumulation": str(accumulate), "data": data.hexdigest(),
        "start weights": str(weights),
    }  # fmt: skip


def _store_constants(constants: Mapping[str, jax.Array], workdir: Path | None) -> None:
    if workdir is not None and jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, value in constants.items():
            np.save(workdir / f"{name}.npy", jax.device_get(value))


@contextmanager
def _termination(enabled: bool) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM came; the handler is only set in the main thread."""
    came = threading.Event()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_if(terminated: bool, done: int, steps: int) -> None:
    if terminated and done < steps:
        raise JobError(
            f"stopped by SIGTERM after step {done} of {steps}; the state is saved, run the same command to go on"
        )
