"""One compiled training step: objective, gradients over micro-batches, optimizer.

Denominators are the token and example counts of the whole step. They depend on masks alone and are summed first. Every
micro-batch then contributes numerator / total, so k micro-batches of b rows give the gradient of one batch of k * b
rows. That holds with unequal token counts, where a mean of means would be wrong. Sums run in the dtype of the trainable
leaves (float32).
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.parallel.activations import OnMesh
from vlm_mu_jax.training.duals import advanced, duals_of
from vlm_mu_jax.training.latent import latent_attack
from vlm_mu_jax.training.model_policy import ModelPolicy
from vlm_mu_jax.training.robust import PLAIN, Robust, robust_gradient
from vlm_mu_jax.training.trainable import Dtypes, Selection, Tree, assemble, shared_blocks

Rows = dict[str, Any]  # stream name -> TrainBatch whose leaves lead with [micro-batches, rows]
Metrics = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """What training changes, and nothing else.

    Attributes:
      step: number of updates done, int32.
      trainable: the leaves that train, see `trainable`.
      opt_state: of the optimizer, with the objective's dual variables.
    """

    step: Array
    trainable: Tree
    opt_state: Any


def loss_and_gradients(
    trainable: Tree,
    frozen: Tree,
    rows: Rows,
    constants: dict[str, Array],
    latent: Array | None = None,
    *,
    cfg: ModelConfig,
    objective: Objective,
    selection: Selection,
    dtypes: Dtypes,
    of_latent: bool = False,
) -> tuple[Tree, Metrics]:
    """The gradient of the objective over all micro-batches. Pure.

    Args:
      trainable: the leaves that train.
      frozen: all other parameters, and the start values of those that the objective compares with.
      rows: the step's rows. Streams that the objective does not read are left alone.
      constants: see `objectives.reading.Policy`.
      latent: [micro-batches, N, rows, T, D], added to the residual stream of the stream `forget`, see `latent`.
      cfg, objective, selection, dtypes: as for `make_step`.
      of_latent: the gradient is that of `latent`, and not of what trains.

    Returns:
      the gradient, shaped as `trainable` or `latent`, and scalar metrics with "loss" among them.
    """
    rows = {name: rows[name] for name in (*objective.streams, *objective.optional_streams) if name in rows}
    totals = jax.tree.map(
        lambda x: x.sum(axis=0), jax.vmap(lambda micro: objective.denominators(micro, cfg.image_token_id))(rows)
    )

    def loss_of(trainable: Tree, latent: Array | None, micro: Rows) -> tuple[Array, Metrics]:
        params, lora = assemble(trainable, frozen, selection, dtypes)
        reference = frozen if objective.needs_reference else None
        shared = shared_blocks(selection, param_specs(cfg))
        policy = ModelPolicy(params, lora, reference, cfg, constants, shared, latent)
        loss, metrics = objective.loss(policy, micro, totals)
        return loss, {"loss": loss, **metrics}

    gradient = jax.grad(loss_of, argnums=int(of_latent), has_aux=True)
    first = jax.tree.map(lambda x: x[0], (latent, rows))
    if of_latent:  # every micro-batch has its own
        found, metrics = jax.lax.map(lambda micro: gradient(trainable, *micro), (latent, rows))
        return found, jax.tree.map(lambda x: x.sum(axis=0), metrics)
    if jax.tree.leaves(rows)[0].shape[0] == 1:
        return gradient(trainable, *first)

    def add(total: tuple[Tree, Metrics], micro: tuple[Array | None, Rows]) -> tuple[tuple[Tree, Metrics], None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, *micro)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, trainable, *first))
    total, _ = jax.lax.scan(add, zeros, (latent, rows))
    return total


def make_step(
    cfg: ModelConfig,
    objective: Objective,
    selection: Selection,
    dtypes: Dtypes,
    optimizer: optax.GradientTransformation,
    state_shardings: Any = None,
    robust: Robust = PLAIN,
) -> Callable[[TrainState, Tree, Rows, dict[str, Array]], tuple[TrainState, Metrics]]:
    """The jitted step (state, frozen, rows, constants) -> (state, metrics). Only the state is donated.

    Args:
      cfg: the model's configuration.
      objective: what is minimised.
      selection: what trains.
      dtypes: of every parameter, see `trainable.dtypes`.
      optimizer: as `duals.with_duals` returns it.
      state_shardings: of the state, as `prepare.state_places` returns them; None on one device.
      robust: how the gradient of forget terms is taken.
    """

    def step(state: TrainState, frozen: Tree, rows: Rows, constants: dict[str, Array]) -> tuple[TrainState, Metrics]:
        known = {**constants, **duals_of(state.opt_state)}
        fixed = {"cfg": cfg, "selection": selection, "dtypes": dtypes}

        def gradient(objective: Objective, trainable: Tree, latent: Array | None = None) -> tuple[Tree, Metrics]:
            return loss_and_gradients(trainable, frozen, rows, known, latent, objective=objective, **fixed)

        def attack(trainable: Tree) -> Array:
            def ascent(objective: Objective, latent: Array) -> Array:
                given = {"objective": objective, "of_latent": True, **fixed}
                return loss_and_gradients(trainable, frozen, rows, known, latent, **given)[0]

            return latent_attack(ascent, rows["forget"], cfg, robust)

        gradients, metrics = robust_gradient(gradient, objective, state.trainable, robust, attack)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable)
        opt_state = advanced(opt_state, objective, metrics, state.step)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["gradient_norm"] = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
        return TrainState(state.step + 1, trainable, opt_state), metrics

    if state_shardings is None:
        return jax.jit(step, donate_argnums=0)
    return OnMesh(jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None)), state_shardings.step.mesh)
