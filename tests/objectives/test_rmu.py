"""RMU: control vector, token classes, reductions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.fake_policy import IMAGE, FakePolicy, rows, value
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.reading import TOKEN_CLASSES, class_mask
from vlm_mu_jax.objectives.rmu import RMU, Hold, control_vector

TOKENS = np.array([[1, IMAGE, IMAGE, 5, 6, 7, 8], [1, IMAGE, IMAGE, 5, 7, 0, 0]])
MASK = np.array([[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 0, 0]], bool)
LENGTHS = [7, 5]


def test_control_vector_has_the_wanted_norm_and_repeats():
    v = control_vector(64, 10.0, seed=3)
    np.testing.assert_allclose(jnp.linalg.norm(v), 10.0, rtol=1e-6)
    np.testing.assert_array_equal(v, control_vector(64, 10.0, seed=3))
    assert v.dtype == jnp.float32 and (v >= 0).all()
    assert (control_vector(64, 10.0, seed=3, distribution="normal") < 0).any()


def test_uniform_and_normal_differ_as_the_reference_page_says():
    """D = 4096: cosine with all-ones 0.87 for uniform, about 0 for normal; between seeds 0.75 and about 0."""
    ones = jnp.ones(4096) / 64.0
    uniform = [control_vector(4096, 1.0, seed) for seed in (0, 1)]
    normal = [control_vector(4096, 1.0, seed, "normal") for seed in (0, 1)]
    assert abs(uniform[0] @ ones - 0.87) < 0.01 and abs(uniform[0] @ uniform[1] - 0.75) < 0.02
    assert abs(normal[0] @ ones) < 0.06 and abs(normal[0] @ normal[1]) < 0.06


def test_token_classes_partition_the_batch():
    batch = rows(TOKENS, MASK, LENGTHS)
    parts = [np.asarray(class_mask(batch, IMAGE, (name,))) for name in TOKEN_CLASSES]
    np.testing.assert_array_equal(sum(p.astype(int) for p in parts), np.ones_like(TOKENS))
    image, prompt, answer, padding = parts
    np.testing.assert_array_equal(image, TOKENS == IMAGE)
    np.testing.assert_array_equal(answer, MASK)
    np.testing.assert_array_equal(padding[1], [0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(prompt[0], [1, 0, 0, 1, 1, 0, 0])


@pytest.mark.parametrize("name", TOKEN_CLASSES)
def test_only_the_named_class_is_pushed(name, rng):
    hidden = jnp.asarray(rng.normal(size=(2, 7, 6)), jnp.float32)
    objective = RMU(layer=0, positions=(name,))
    batch = rows(TOKENS, MASK, LENGTHS)

    def run(hidden):
        policy = FakePolicy(lambda r: hidden, constants=objective.constants(6, 0))
        return value(objective, policy, {"forget": batch})

    moved = np.abs(jax.grad(run)(hidden)).sum(axis=-1) > 0
    np.testing.assert_array_equal(moved, class_mask(batch, IMAGE, (name,)))


def unlearn(objective, hidden, pad=0):
    wide = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)), constant_values=3.0)
    tokens, mask = (np.pad(x, ((0, 0), (0, pad))) for x in (TOKENS, MASK))
    batch = rows(tokens, mask, LENGTHS)
    policy = FakePolicy(lambda r: wide, reference_of=lambda r: wide * 0.5, constants=objective.constants(6, 0))
    return value(objective, policy, {"forget": batch, "retain": batch})


def test_padding_changes_the_loss_under_as_code_only(rng):
    hidden = jnp.asarray(rng.normal(size=(2, 7, 6)), jnp.float32)
    paper, code = RMU(layer=0), RMU(layer=0, reading="as_code")
    np.testing.assert_allclose(unlearn(paper, hidden), unlearn(paper, hidden, pad=4), rtol=1e-6)
    assert abs(unlearn(code, hidden) - unlearn(code, hidden, pad=4)) > 1e-3


def test_the_two_width_reductions_differ_by_the_width(rng):
    hidden = jnp.asarray(rng.normal(size=(2, 7, 6)), jnp.float32)
    total = RMU(layer=0)
    mean = dataclasses.replace(total, width_reduction="mean")
    np.testing.assert_allclose(unlearn(total, hidden), 6 * unlearn(mean, hidden), rtol=1e-5)


def test_bad_options_are_refused():
    for bad in ({"reading": "x"}, {"distribution": "x"}, {"width_reduction": "x"}, {"positions": ("x",)}):
        with pytest.raises(InputError, match="objective"):
            RMU(layer=0, **bad)


def test_hold_is_zero_at_the_reference_and_sees_its_positions_only(rng):
    hidden = jnp.asarray(rng.normal(size=(2, 7, 6)), jnp.float32)
    batch = rows(TOKENS, MASK, LENGTHS)

    def loss(hidden, positions=("answer",)):
        policy = FakePolicy(lambda r: hidden, reference_of=lambda r: before)
        return value(Hold((0,), "sum", positions), policy, {"retain": batch})

    before = hidden
    assert loss(hidden) == 0 and np.abs(jax.grad(loss)(hidden)).max() == 0
    moved = hidden + 1.0
    np.testing.assert_allclose(loss(moved), 6.0, rtol=1e-5)  # |1|^2 over a width of 6, whatever the number of tokens
    seen = np.abs(jax.grad(loss)(moved)).sum(axis=-1) > 0
    np.testing.assert_array_equal(seen, class_mask(batch, IMAGE, ("answer",)))
