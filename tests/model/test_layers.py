"""Norms, activations, linear maps and rotary positions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from tests.model.tiny import TEXT
from vlm_mu_jax.model import layers
from vlm_mu_jax.model.config import RopeScaling
from vlm_mu_jax.model.layers import product


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_rope(**scaling):
    import dataclasses

    return dataclasses.replace(TEXT, rope_scaling=RopeScaling(**scaling))


def test_rms_norm_gives_unit_mean_square_times_the_scale():
    x, scale = draw(2, 3, 16), draw(16, seed=1)
    got = np.asarray(layers.rms_norm(x, jnp.asarray(scale), 0.0)) / scale
    np.testing.assert_allclose((got**2).mean(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(layers.rms_norm(5 * x, jnp.asarray(scale), 0.0), got * scale, rtol=1e-5)


def test_layer_norm_equals_torch():
    x, scale, bias = 3 + draw(2, 3, 16), draw(16, seed=1), draw(16, seed=2)
    want = torch.nn.functional.layer_norm(
        *map(torch.tensor, (x,)), (16,), torch.tensor(scale), torch.tensor(bias), 0.01
    )
    np.testing.assert_allclose(layers.layer_norm(x, scale, bias, 0.01), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_norms_count_in_float32_and_answer_in_the_inputs_type(norm):
    """A mean of squares in bfloat16 would lose its small terms."""
    x = jnp.full((1, 4096), 0.1, jnp.bfloat16).at[0, 0].set(30)
    one, zero = jnp.ones(4096, jnp.bfloat16), jnp.zeros(4096, jnp.bfloat16)
    low = layers.rms_norm(x, one, 1e-6) if norm == "rms" else layers.layer_norm(x, one, zero, 1e-6)
    x, one, zero = (a.astype(jnp.float32) for a in (x, one, zero))
    high = layers.rms_norm(x, one, 1e-6) if norm == "rms" else layers.layer_norm(x, one, zero, 1e-6)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), high, rtol=2**-8)  # one rounding to 8 bits


@pytest.mark.parametrize("name", ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "relu"])
def test_activations_equal_transformers_by_name(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    want = ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(layers.activation(name)(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)


def test_linear_with_bias_and_adapter_equals_the_merged_matrix():
    x, w, bias, a, b = draw(2, 3, 6), draw(6, 4, 5), draw(4, 5), draw(6, 2), draw(2, 4, 5)
    got = layers.linear(x, jnp.asarray(w), jnp.asarray(bias), {"a": a, "b": jnp.asarray(b), "scale": jnp.float32(0.5)})
    merged = w + 0.5 * np.einsum("ir,rno->ino", a, b)
    np.testing.assert_allclose(got, np.einsum("bti,ino->btno", x, merged) + bias[None, None], rtol=1e-4, atol=1e-5)


def test_rotation_keeps_norms_and_scores_depend_on_distance_only():
    q, k = draw(1, 1, 1, 8), draw(1, 1, 1, 8, seed=1)
    frequencies = layers.rope_frequencies(TEXT, jnp.ones(1, jnp.int32))

    def score(i, j):
        turned = [layers.rope(x, layers.rope_angles(jnp.full((1, 1), at), frequencies)) for x, at in ((q, i), (k, j))]
        np.testing.assert_allclose(jnp.linalg.norm(turned[0]), np.linalg.norm(q), rtol=1e-5)
        return float((turned[0] * turned[1]).sum())

    assert score(0, 0) == pytest.approx(float((q * k).sum()), rel=1e-5)
    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)  # angles of about 100 rad hold 1e-5 in float32
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_positions_beyond_bfloat16_are_told_apart():
    """256 and 257 round to the same bfloat16."""
    x, frequencies = jnp.ones((1, 1, 1, 8), jnp.bfloat16), layers.rope_frequencies(TEXT, jnp.ones(1, jnp.int32))
    a, b = (layers.rope(x, layers.rope_angles(jnp.full((1, 1), at), frequencies)) for at in (256, 257))
    assert (a != b).any()


def test_linear_scaling_divides_positions():
    scaled = layers.rope_frequencies(with_rope(kind="linear", factor=4.0), jnp.array([3, 9]))
    plain = layers.rope_frequencies(TEXT, jnp.array([3, 9]))
    np.testing.assert_allclose(4 * scaled, plain, rtol=1e-6)


def test_dynamic_scaling_looks_at_each_rows_own_length():
    cfg = with_rope(kind="dynamic", factor=2.0, original_max_positions=8)
    together = layers.rope_frequencies(cfg, jnp.array([3, 8, 9, 32]))
    for row, length in enumerate((3, 8, 9, 32)):
        np.testing.assert_array_equal(together[row], layers.rope_frequencies(cfg, jnp.array([length]))[0])
    np.testing.assert_allclose(together[0], layers.rope_frequencies(TEXT, jnp.array([3]))[0], rtol=1e-6)  # short: as is
    assert (together[3][1:] < together[2][1:]).all() and (together[2][1:] < together[1][1:]).all()


def test_llama3_scaling_keeps_short_waves_and_divides_long_ones():
    cfg = with_rope(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64)
    plain = np.asarray(layers.rope_frequencies(TEXT, jnp.ones(1, jnp.int32)))[0]
    got = np.asarray(layers.rope_frequencies(cfg, jnp.ones(1, jnp.int32)))[0]
    turns = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(got[turns > 4], plain[turns > 4], rtol=1e-6)
    np.testing.assert_allclose(got[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    assert (turns > 4).any() and (turns < 1).any()
    assert (got <= plain * (1 + 1e-6)).all() and (got >= plain / 8 * (1 - 1e-6)).all()


@pytest.mark.parametrize("name", sorted(layers.REMAT_POLICIES))
def test_remat_changes_no_gradient(name):
    w = jnp.asarray(draw(4, 4))

    def loss(w, name):
        return jax.lax.scan(layers.remat(lambda x, _: (jnp.tanh(x @ w), None), name), jnp.ones(4), None, 3)[0].sum()

    np.testing.assert_allclose(jax.grad(loss)(w, name), jax.grad(loss)(w, "none"), rtol=1e-6)


@pytest.mark.parametrize("shape, width", [((2, 3, 4), (5,)), ((3, 4), (2, 3)), ((2, 3, 8), (5,)), ((2, 8), (1, 2))])
@pytest.mark.parametrize("trained", ["both", "input", "weight"])
def test_gradients_of_a_product_are_those_of_tensordot(shape, width, trained):
    rng = np.random.default_rng(0)
    x, w, dy = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (shape[-1], *width), (*shape[:-1], *width))
    )
    chosen = {"both": (0, 1), "input": (0,), "weight": (1,)}[trained]

    def loss(multiply):
        return jax.grad(lambda x, w: (multiply(x, w) * dy).sum(), chosen)(x, w)

    made, expected = loss(product), loss(lambda x, w: jnp.tensordot(x, w, axes=1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), made, expected)


def test_the_wider_factor_of_a_weight_gradient_is_read_as_it_lies():
    """XLA turns the left factor of a product over its rows."""
    for inputs, outputs in ((2, 16), (16, 2)):
        x, w = jnp.ones((4, inputs)), jnp.ones((inputs, outputs))
        jaxpr = jax.make_jaxpr(jax.grad(lambda w, x=x: (product(x, w) ** 2).sum()))(w)
        (gradient,) = [
            e for e in jaxpr.eqns if e.primitive.name == "dot_general" and e.params["dimension_numbers"][0][0] == (0,)
        ]
        assert gradient.invars[0].aval.shape == (4, 2)


def test_a_product_whose_weight_does_not_train_keeps_no_input():
    x, w = jnp.ones((4, 8)), jnp.ones((8, 2))
    _, backward = jax.vjp(lambda x: product(x, w), x)
    assert {leaf.shape for leaf in jax.tree.leaves(backward)} == {(8, 2)}
