"""Operators against their formulas, through the model's own forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import SCOPES
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.steering import gates, operators

LAYER = 1


@pytest.fixture(scope="module")
def basis_LMD(model):
    rng = np.random.default_rng(0)
    return np.stack([np.linalg.qr(rng.normal(size=(model.config.text.D, 3)))[0].T for _ in range(model.config.text.L)])


@pytest.fixture(scope="module")
def batch(model):
    return model.processor.pad([model.processor.prompt_ids(q, images=0) for q in ("how to hurt a dax?", "feed it")])


def stream(model, batch, steer=None):
    """Residual stream at the output of LAYER, [B, T, D]."""
    return np.asarray(_stream(model.params, batch, steer, model.config), np.float64)


@functools.partial(jax.jit, static_argnums=3)
def _stream(params, batch, steer, cfg):
    return forward(params, batch, cfg, steer=steer, upto=LAYER).hidden_BTD


def test_amplify_minus_one_is_project_out_and_minus_two_is_reflect(model, batch, basis_LMD):
    v, h = basis_LMD[LAYER], stream(model, batch)
    removed = stream(model, batch, operators.amplify(basis_LMD, -1.0, (LAYER,)))
    np.testing.assert_allclose(removed, h - h @ v.T @ v, atol=2e-4)
    np.testing.assert_allclose(removed @ v.T, 0, atol=2e-4)
    np.testing.assert_array_equal(removed, stream(model, batch, operators.project_out(basis_LMD, (LAYER,))))
    turned = stream(model, batch, operators.amplify(basis_LMD, -2.0, (LAYER,)))
    np.testing.assert_allclose(turned, h - 2 * h @ v.T @ v, atol=2e-4)
    np.testing.assert_array_equal(turned, stream(model, batch, operators.reflect(basis_LMD, (LAYER,))))


def test_gated_projection_with_an_open_gate_is_the_projection(model, batch, basis_LMD):
    plain = operators.project_out(basis_LMD, (LAYER,))
    opened = gates.per_layer(operators.amplify(basis_LMD, -1.0, (LAYER,)), np.full(model.config.text.L, -np.inf))
    np.testing.assert_array_equal(stream(model, batch, plain), stream(model, batch, opened))


def test_amplify_scales_the_component_and_leaves_the_rest(model, batch, basis_LMD):
    v, h = basis_LMD[LAYER], stream(model, batch)
    out = stream(model, batch, operators.amplify(basis_LMD, 1.5, (LAYER,)))
    np.testing.assert_allclose(out @ v.T, 2.5 * h @ v.T, atol=5e-4)
    np.testing.assert_allclose(out - out @ v.T @ v, h - h @ v.T @ v, atol=5e-4)


def test_add_shifts_by_strength_units_along_the_first_row(model, batch, basis_LMD):
    unit_L = np.arange(1.0, 5.0)
    out = stream(model, batch, operators.add(basis_LMD, 0.5, unit_L, (LAYER,)))
    np.testing.assert_allclose(
        out - stream(model, batch), np.broadcast_to(0.5 * 2.0 * basis_LMD[LAYER, 0], out.shape), atol=2e-4
    )


@pytest.mark.parametrize("operator", [name for name in operators.OPERATORS if name != "ablate"])
def test_norm_preserving_keeps_every_norm(model, batch, basis_LMD, operator):
    steer = operators.build(
        operator, basis_LMD, 1.0, (LAYER,), unit_L=np.ones(4), component_LBM=np.ones((4, 2, 3)), norm_preserving=True
    )
    before, after = stream(model, batch), stream(model, batch, steer)
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), np.linalg.norm(before, axis=-1), rtol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_layers_that_are_off_change_nothing(model, batch, basis_LMD):
    steer = operators.amplify(basis_LMD, 3.0, (3,))
    np.testing.assert_array_equal(stream(model, batch, steer), stream(model, batch))
    assert not np.asarray(steer.basis_LMD)[:3].any() and steer.basis_LMD.dtype == jnp.float32


@pytest.mark.parametrize(
    "text, layers, chosen",
    [
        ("middle", 32, tuple(range(10, 22))),
        ("middle", 3, (1,)),
        ("middle", 2, (0, 1)),
        ("middle", 1, (0,)),
        ("all", 3, (0, 1, 2)),
        ("1-3", 5, (1, 2, 3)),
        ("4", 5, (4,)),
        ("3,1,1-2", 5, (1, 2, 3)),
    ],
)
def test_layers_by_name_and_number(text, layers, chosen):
    assert operators.parse_layers(text, layers) == chosen


@pytest.mark.parametrize("text", ["5", "-1", "3-1", "0-99999999999999", "1-2-3", "", "first", "1.5"])
def test_layers_that_the_model_has_not_are_input_errors(text):
    with pytest.raises(InputError, match="layers"):
        operators.parse_layers(text, 5)


@given(st.text(max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_layer_text_gives_layers_of_the_model_or_an_input_error(text):
    try:
        assert set(operators.parse_layers(text, 4)) <= set(range(4))
    except InputError as error:
        assert "layers" in str(error)


def test_components_of_another_run_are_added_or_put_in_place_of_the_own_ones(model, batch, basis_LMD):
    v, h = basis_LMD[LAYER], stream(model, batch)
    component_LBM = np.random.default_rng(2).normal(size=(4, 2, 3))
    wanted = component_LBM[LAYER][:, None]
    out = stream(model, batch, operators.transplant(basis_LMD, 1.0, (LAYER,), component_LBM))
    np.testing.assert_allclose(out @ v.T, np.broadcast_to(wanted, (*h.shape[:2], 3)), atol=5e-4)
    np.testing.assert_allclose(out - out @ v.T @ v, h - h @ v.T @ v, atol=5e-4)
    half = stream(model, batch, operators.transplant(basis_LMD, 0.5, (LAYER,), component_LBM))
    np.testing.assert_allclose(half, (h + out) / 2, atol=5e-4)
    added = stream(model, batch, operators.amplify(basis_LMD, 2.0, (LAYER,), component_LBM=component_LBM))
    np.testing.assert_allclose(added, h + 2 * wanted @ v, atol=5e-4)
    with pytest.raises(InputError, match="first pass"):
        operators.build("transplant", basis_LMD, 1.0, (LAYER,))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_writes_its_positions_and_no_others(model, basis_LMD, pictures, scope):
    rows = [model.processor.prompt_ids(question, images=1) for question in ("how to hurt a dax?", "feed it")]
    batch = model.processor.pad(rows, [[picture] for picture in pictures[:2]])
    steer = operators.add(basis_LMD, 1.0, np.ones(4), (LAYER,)).replace(scope=scope)
    changed = np.abs(stream(model, batch, steer) - stream(model, batch)).max(-1) > 1e-4
    place, image = np.arange(changed.shape[1])[None], np.asarray(batch.tokens_BT) == model.config.image_token_id
    last = place == np.asarray(batch.lengths_B)[:, None] - 1
    wanted = {"last": last, "image": image, "text": ~image, "generated": np.zeros_like(image)}
    np.testing.assert_array_equal(changed, wanted.get(scope, np.ones_like(image)))


def test_ablate_removes_one_subspace_from_everything_that_is_read(model, batch, basis_LMD):
    """Blocks on a stream without the subspace: by hand, the projection before and after every part of every block."""
    steer = operators.ablate(basis_LMD, (2,))
    v = basis_LMD[2]
    for upto in range(2):
        out = np.asarray(_upto(model.params, batch, steer, model.config, upto), np.float64)
        np.testing.assert_allclose(out @ v.T, 0, atol=2e-4)
    with pytest.raises(InputError, match="one layer"):
        operators.ablate(basis_LMD, (1, 2))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _upto(params, batch, steer, cfg, upto):
    return forward(params, batch, cfg, steer=steer, upto=upto).hidden_BTD


def test_unknown_operator_is_an_input_error(basis_LMD):
    with pytest.raises(InputError, match="use one of"):
        operators.build("rotate", basis_LMD, 1.0, (0,))
