"""SAM and tamper-aware gradients: on a quadratic by hand, and on a tiny model through the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from tests.training.test_step import with_micro
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.gradient import GA
from vlm_mu_jax.objectives.keep import CE
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.robust import PLAIN, Robust, moved, robust_gradient
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import Selection, dtypes, split

A, C = jnp.asarray([2.0, 0.5, 1.0]), jnp.asarray([1.0, -1.0, 3.0])
THETA = {"x": jnp.asarray([1.0, 2.0]), "y": jnp.asarray([-1.0])}
UNLEARN = Objective(((1.0, GA()), (1.0, CE("retain"))))


def flat(tree):
    return jnp.concatenate([tree["x"], tree["y"]])


def quadratic(objective, theta):
    """Forget loss 1/2 theta A theta, retain loss C theta; the attacker descends 1/2 |theta|^2."""
    kinds = {(type(term), *term.reads()) for _, term in objective.terms}
    parts = {(GA, "forget"): A * flat(theta), (CE, "retain"): C, (CE, "forget"): flat(theta)}
    total = sum(parts[kind] for kind in kinds)
    metrics = {f"m{name}": jnp.float32(1.0) for _, name in kinds} | {"loss": total.sum()}
    return {"x": total[:2], "y": total[2:]}, metrics


def test_sam_takes_the_forget_gradient_where_it_is_worst_and_the_rest_in_place():
    theta, g = np.asarray(flat(THETA)), np.asarray(A * flat(THETA))
    got, metrics = robust_gradient(quadratic, UNLEARN, THETA, Robust("sam", length=0.3))
    want = A * (theta + 0.3 * g / np.linalg.norm(g)) + C
    np.testing.assert_allclose(flat(got), want, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], g.sum() + C.sum(), rtol=1e-6)
    assert metrics.keys() == {"mforget", "mretain", "loss"}


@pytest.mark.parametrize("attacker", ["gradient", "sign"])
def test_tamper_averages_the_forget_gradient_along_the_attackers_way(attacker):
    point, points = np.asarray(flat(THETA)), []
    for _ in range(3):
        points.append(point)
        step = np.sign(point) if attacker == "sign" else point
        point = point - 0.2 * step / np.linalg.norm(step)
    got, _ = robust_gradient(quadratic, UNLEARN, THETA, Robust("tamper", length=0.2, steps=2, attacker=attacker))
    np.testing.assert_allclose(flat(got), A * np.mean(points, axis=0) + C, rtol=1e-6)


def test_without_keep_terms_and_without_robustness():
    forget = UNLEARN.part(forgets=True)
    got, _ = robust_gradient(quadratic, forget, THETA, Robust("sam", length=1e-9))
    np.testing.assert_allclose(flat(got), A * flat(THETA), rtol=1e-6)
    plain, _ = robust_gradient(quadratic, UNLEARN, THETA, PLAIN)
    np.testing.assert_allclose(flat(plain), A * flat(THETA) + C, rtol=1e-6)


def test_a_displacement_has_its_length_and_a_zero_gradient_gives_none():
    step = flat(moved(THETA, jax.tree.map(lambda x: 1e-6 * x, THETA), 0.7)) - flat(THETA)
    np.testing.assert_allclose(jnp.linalg.norm(step), 0.7, rtol=1e-5)
    np.testing.assert_array_equal(flat(moved(THETA, jax.tree.map(jnp.zeros_like, THETA), 0.7)), flat(THETA))


@pytest.mark.parametrize(
    "bad", [{"kind": "rs"}, {"kind": "sam", "length": 0.0}, {"kind": "tamper", "steps": 0}, {"attacker": "adam"}]
)
def test_bad_options_are_refused(bad):
    with pytest.raises(InputError, match="robust"):
        Robust(**bad)
    with pytest.raises(InputError, match="no forget term"):
        robust_gradient(quadratic, make_objective("sft"), THETA, Robust("sam"))


def one_step(params, robust, micro=1):
    """Metrics and change of the trained slices after one step of an Adam that is nearly SGD."""
    objective = make_objective("npo", beta=0.5)
    selection = Selection.of(select=[], slices={"decoder/layers/wdown_LFD": [0, 1]})
    trainable, frozen = split(params, selection, param_specs(tiny.TEXT), jax.random.key(0), False)
    before = np.asarray(flatten(trainable)["slices/decoder/layers/wdown_LFD"])
    optimizer = make_optimizer(OptimConfig(1e-2, schedule="constant", warmup=0.0, eps=1.0), 10)
    step = make_step(tiny.TEXT, objective, selection, dtypes(params), optimizer, robust=robust)
    state = TrainState(jnp.int32(0), trainable, optimizer.init(trainable))
    batches = {name: stream[0] for name, stream in tiny.streams(objective).items()}
    batches["forget"] = batches["forget"].replace(reference_nll_B=np.full(8, 9.0, np.float32))
    state, metrics = step(state, frozen, {n: with_micro(b, micro) for n, b in batches.items()}, {})
    return metrics, np.asarray(flatten(state.trainable)["slices/decoder/layers/wdown_LFD"]) - before


@pytest.fixture(scope="module")
def plain_step(params):
    return one_step(params, PLAIN)


@pytest.mark.parametrize("kind", ["sam", "tamper"])
def test_on_a_model_it_tends_to_the_plain_step_and_accumulates_exactly(params, plain_step, kind):
    plain, change = plain_step
    tiny_length, near = one_step(params, Robust(kind, length=1e-7, steps=2))
    np.testing.assert_allclose(near, change, rtol=1e-3, atol=1e-8)
    assert plain.keys() == tiny_length.keys()
    np.testing.assert_allclose(plain["loss"], tiny_length["loss"], rtol=1e-6)
    whole = one_step(params, Robust(kind, length=0.5, steps=2))
    pieces = one_step(params, Robust(kind, length=0.5, steps=2), micro=4)
    np.testing.assert_allclose(whole[1], pieces[1], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(whole[0]["loss"], pieces[0]["loss"], rtol=1e-5)
    assert np.abs(whole[1] - change).max() > 1e-2 * np.abs(change).max()  # it is another gradient
