"""The training step of a config on devices that are not here. Its inputs are shapes with shardings, not arrays."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vlm_mu_jax.data.batches import TrainBatch
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params, Specs, abstract_params, flatten, unflatten
from vlm_mu_jax.model.quantize import Scheme
from vlm_mu_jax.model.stored import StoredLinear, hold, shardings
from vlm_mu_jax.model.vlm import Batch, param_specs
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import batch_sharding, batch_shards, make_mesh, replicated
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.duals import with_duals
from vlm_mu_jax.training.flops import train_step_flops
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.prepare import state_places
from vlm_mu_jax.training.robust import Robust
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import Selection, dtypes, split, trainable_specs


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A training step ready to be compiled.

    Attributes:
      step: `step(*args)` is one optimizer update.
      args: `jax.ShapeDtypeStruct`s with shardings.
      flops: analytic, over all devices.
      mesh: the mesh of the shardings.
      trained, frozen: numbers of parameters.
      tokens: positions per step, padding included.
    """

    step: Any
    args: tuple
    flops: float
    mesh: jax.sharding.Mesh
    trained: int
    frozen: int
    tokens: int


def planned_step(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any]) -> PlannedStep:
    """What `bin/train` would run, without a weight or a row of data.

    Rows are `data.max_length` tokens long and hold one image each (none for a text-only model).

    Args:
      settings: from `settings.checked`.
      cfg: the model, with the settings' remat and attention.

    Raises:
      InputError: mesh, batch sizes or selection do not fit.
    """
    objective, selection = make_objective(**settings["objective"]), Selection.of(**settings["train"])
    mesh = make_mesh(**settings["mesh"], devices=devices)
    specs = param_specs(cfg)
    params = _placed(abstract_params(specs, jnp.dtype(cfg.dtype)), rules.shardings(specs, mesh))
    params = _in_few_bits(params, settings_lib.scheme(settings["model"]), specs, mesh)
    optimizer = with_duals(make_optimizer(OptimConfig(**settings["optim"]), settings["steps"]), objective)
    learned, frozen = jax.eval_shape(
        lambda tree: split(tree, selection, specs, jax.random.key(0), objective.needs_reference), params
    )
    flat = flatten(params)
    frozen = unflatten({path: flat[path] for path in flatten(frozen)})
    places = state_places(learned, trainable_specs(selection, specs), optimizer, mesh)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), learned, jax.eval_shape(optimizer.init, learned))
    rows = _rows(settings, cfg, objective, mesh)
    constants = jax.eval_shape(lambda: objective.constants(cfg.text.D, 0))
    robust = Robust(**settings["robust"])
    step = make_step(cfg, objective, selection, dtypes(params), optimizer, places, robust)
    everywhere = jax.tree.map(lambda _: replicated(mesh), constants)
    return PlannedStep(
        step,
        (_placed(state, places), frozen, rows, _placed(constants, everywhere)),
        train_step_flops(cfg, objective, selection, rows, robust),
        mesh,
        _count(learned),
        _count(frozen),
        sum(batch.batch.tokens_BT.size for batch in rows.values()),
    )


def _in_few_bits(params: Params, scheme: Scheme | None, specs: Specs, mesh: jax.sharding.Mesh) -> Params:
    """The decoder's linear maps as a run with `model.quantize` holds them."""
    if scheme is None:
        return params
    held, declared = jax.eval_shape(lambda tree: hold(tree, scheme), params), flatten(specs)
    return unflatten(
        {
            path: _placed(leaf, shardings(leaf, path, declared[path], mesh))
            if isinstance(leaf, StoredLinear)
            else flatten(params)[path]
            for path, leaf in flatten(held).items()
        }
    )


def _count(tree: Any) -> int:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, StoredLinear))
    return sum(math.prod(x.shape) for x in leaves)


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, shardings)


def _rows(
    settings: dict[str, Any], cfg: ModelConfig, objective: Objective, mesh: jax.sharding.Mesh
) -> dict[str, TrainBatch]:
    """Every stream's batch of one step, leaves [micro-batches, rows, ...]."""
    names = [*objective.streams]
    if settings["data"]["separate_general"]:
        names += objective.optional_streams
    micro, length = settings["accumulate"], settings["data"]["max_length"]
    rows = {}
    for name in names:
        size = (settings["forget_batch_size"] if name in ("forget", "preferred") else None) or settings["batch_size"]
        if size % (micro * batch_shards(mesh)):
            raise InputError(
                f"the batch size of {name}, {size}, is not a multiple of accumulate x data x fsdp = "
                f"{micro} x {batch_shards(mesh)}"
            )
        reference = name in objective.reference_nll_streams
        batch = _batch(cfg, (micro, size // micro), length, reference)
        rows[name] = _placed(batch, jax.tree.map(lambda _: batch_sharding(mesh, axis=1), batch))
    return rows


def _batch(cfg: ModelConfig, lead: tuple[int, int], length: int, reference: bool) -> TrainBatch:
    def shape(*rest: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lead, *rest), dtype)

    nll = shape(dtype=jnp.float32) if reference else None
    batch = Batch(shape(length), shape(), **image_arrays(cfg, lead, length, jax.ShapeDtypeStruct))
    return TrainBatch(batch, shape(length, dtype=jnp.bool_), nll)


def image_arrays(
    cfg: ModelConfig, lead: tuple[int, ...], length: int, array: Callable[[tuple[int, ...], Any], Any]
) -> dict[str, Any]:
    """Fields of a `Batch` whose rows hold one picture each, of the most tokens; {} for a text-only model.

    Args:
      lead: axes of the rows.
      length: tokens of a row.
      array: makes an array of a shape and dtype.
    """
    if cfg.vision is None:
        return {}
    side, tiles, most = cfg.vision.image_size, cfg.vision.tiles, cfg.vision.most_tokens
    if cfg.text.rope_axes:  # its encoded images are patches; no row holds more of them than it has tokens
        tiles = tiles // most * min(most, length)
        grid = {"grid_BI2": array((*lead, 1, 2), jnp.int32)}
        return grid | {"pixels_BMHWC": array((*lead, tiles, side, side, 3), jnp.float32)}
    pixels = {"pixels_BMHWC": array((*lead, tiles, side, side, 3), jnp.float32)}
    table = cfg.vision.plan.gather((side, side))
    return pixels | {"gather_BQ": jax.tree.map(lambda x: array((*lead, length, *x.shape[1:]), x.dtype), table)}
