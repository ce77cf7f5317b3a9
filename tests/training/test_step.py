"""The gradient of a step: micro-batches, padding, slices, and one compilation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.step import TrainState, loss_and_gradients, make_step
from vlm_mu_jax.training.trainable import ALL, Selection, dtypes, split

KEEP = {"retain_weight": 0.5, "retain_kl": 0.5, "retain_alpha": 0.3, "hold_layer": 0}
# between them: every kind of reading, and a dual variable
OBJECTIVES = {
    "sft": {},
    "npo": {"beta": 0.5},
    "rmu": {"layer": 0, "c": 2.0},
    "undial": KEEP,
    "pdu": {"retain_limit": 2.0},
}


def gradients(params, objective, rows, selection=ALL, cfg=tiny.TEXT):
    trainable, frozen = split(params, selection, param_specs(cfg), jax.random.key(1), objective.needs_reference)
    constants = {**objective.constants(cfg.text.D, 0), **objective.duals()}

    @jax.jit
    def run(trainable):
        return loss_and_gradients(
            trainable, frozen, rows, constants, cfg=cfg, objective=objective, selection=selection, dtypes=dtypes(params)
        )

    return run(trainable)


def with_micro(batch, count, pad=0):
    def split_rows(x):
        return jnp.asarray(x).reshape(count, x.shape[0] // count, *x.shape[1:])

    def widen(x):
        return np.pad(x, ((0, 0), (0, pad)), constant_values=0)

    tokens, mask = widen(batch.batch.tokens_BT), widen(batch.mask_BT)
    batch = batch.replace(batch=batch.batch.replace(tokens_BT=tokens), mask_BT=mask)
    return jax.tree.map(split_rows, batch)


def make_rows(objective, count=1, pad=0):
    made = {}
    for name, stream in tiny.streams(objective).items():
        batch = stream[0]
        if name in objective.reference_nll_streams:
            batch = batch.replace(reference_nll_B=np.linspace(2, 9, stream.batch_size).astype(np.float32))
        made[name] = with_micro(batch, count, pad)
    return made


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_with_unequal_token_counts_and_padding_change_nothing(params, name):
    objective = make_objective(name, **OBJECTIVES[name])
    moved = jax.tree.map(lambda x: x * 1.0, params)
    whole, metrics = gradients(moved, objective, make_rows(objective))
    split_up, split_metrics = gradients(moved, objective, make_rows(objective, count=4, pad=8))
    assert metrics.keys() == split_metrics.keys()
    for key in metrics:
        np.testing.assert_allclose(metrics[key], split_metrics[key], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(split_up, whole, rtol=1e-4, atol=1e-5)


def test_only_the_slice_has_a_gradient_and_it_is_the_gradient_of_that_layer(params):
    path = "decoder/layers/wdown_LFD"
    objective = make_objective("sft")
    rows = make_rows(objective)
    part, _ = gradients(params, objective, rows, Selection.of(select=[], slices={path: [1]}))
    assert list(flatten(part)) == [f"slices/{path}"]
    full, _ = gradients(params, objective, rows)
    np.testing.assert_allclose(
        flatten(part)[f"slices/{path}"][0], flatten(full)[f"weights/{path}"][1], rtol=1e-5, atol=1e-6
    )


def test_rmu_gradient_is_zero_above_its_layer_and_in_the_head(params):
    objective = make_objective("rmu", layer=0, retain_weight=0.0)
    got = flatten(gradients(params, objective, make_rows(objective))[0])
    down = got["weights/decoder/layers/wdown_LFD"]
    assert jnp.abs(down[0]).max() > 0 and jnp.abs(down[1]).max() == 0
    assert jnp.abs(got["weights/decoder/head_DV"]).max() == 0
    assert jnp.abs(got["weights/decoder/norm_D"]).max() == 0


def test_the_step_compiles_once_and_keeps_frozen_weights(params):
    objective = make_objective("rmu", layer=0)
    selection = Selection.of(select=[], slices={"decoder/layers/wdown_LFD": [0]})
    trainable, frozen = split(params, selection, param_specs(tiny.TEXT), jax.random.key(0), True)
    optimizer = make_optimizer(OptimConfig(1e-2), 3)
    step = make_step(tiny.TEXT, objective, selection, dtypes(params), optimizer)
    state = TrainState(jnp.int32(0), trainable, optimizer.init(trainable))
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim} == {(1, 24, 16)}
    constants, batches = objective.constants(16, 0), tiny.streams(objective)
    for k in range(3):
        state, metrics = step(state, frozen, {n: with_micro(s[k], 1) for n, s in batches.items()}, constants)
        assert abs(metrics["hold_loss"]) < 1e-6 if k == 0 else metrics["hold_loss"] > 0
    assert step._cache_size() == 1 and state.step == 3
    for path, leaf in flatten(frozen).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path])
