"""The vision tower: which hidden states the projector reads, and what they depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, VISION, pixels, random_params

PARAMS = random_params(LLAVA)["vision"]
run = jax.jit(lambda params, x, tower: tower.encode(params, x), static_argnums=2)
TOWER = VISION.tower


def images(count, size=VISION.image_size):
    rng = np.random.default_rng(size)
    return jnp.asarray(rng.normal(size=(count, size, size, 3)), jnp.float32)


def variant(**fields):
    return dataclasses.replace(TOWER, **fields)


def test_a_list_of_layers_is_the_concatenation_of_each():
    x = images(2)
    each = [run(PARAMS, x, variant(feature_layers=(i,))) for i in (0, 1, 2)]
    np.testing.assert_allclose(
        run(PARAMS, x, variant(feature_layers=(2, 0, 1))),
        jnp.concatenate([each[2], each[0], each[1]], -1),
        rtol=1e-5,
        atol=1e-5,
    )
    for negative, positive in ((-1, 2), (-2, 1), (-3, 0)):
        np.testing.assert_array_equal(run(PARAMS, x, variant(feature_layers=(negative,))), each[positive])


def test_full_keeps_the_class_token_in_front_and_default_drops_it():
    full, default = (run(PARAMS, images(2), variant(select=select)) for select in ("full", "default"))
    assert full.shape[1] == variant(select="full").P == default.shape[1] + 1
    np.testing.assert_array_equal(full[:, 1:], default)


def test_later_blocks_are_never_read():
    changed = jax.tree.map(lambda w: w.at[1:].set(jnp.nan), PARAMS["layers"])
    got = run(PARAMS | {"layers": changed}, images(1), variant(feature_layers=(1,)))
    np.testing.assert_array_equal(got, run(PARAMS, images(1), variant(feature_layers=(1,))))


def test_an_image_does_not_depend_on_its_neighbours():
    x = images(3)
    for i in range(3):
        np.testing.assert_allclose(run(PARAMS, x, TOWER)[i], run(PARAMS, x[i : i + 1], TOWER)[0], rtol=1e-5, atol=1e-5)


def test_every_patch_sees_every_pixel_after_one_block_and_only_its_own_before():
    def touched(feature_layers):
        """[patch, row, column]: does the patch's feature depend on the pixel?"""
        cfg = variant(feature_layers=feature_layers)
        jacobian = jax.jit(jax.jacrev(lambda x: cfg.encode(PARAMS, x)[0].sum(-1)))(images(1))
        return np.abs(np.asarray(jacobian))[:, 0].max(-1) > 0

    assert touched((1,)).all()
    own = touched((0,)).reshape(4, 2, 4, 2, 4)  # patch, grid row, row, grid column, column
    for patch in range(4):
        for row, column in np.ndindex(2, 2):
            assert (own[patch, row, :, column] == (patch == 2 * row + column)).all()


def test_pixels_beyond_the_last_whole_patch_are_ignored():
    """image_size 10 with patches of 4 has a grid of 2 x 2, as a strided convolution gives."""
    cfg, x = variant(image_size=10), images(1, 10)
    np.testing.assert_array_equal(run(PARAMS, x, cfg), run(PARAMS, x.at[:, 8:].set(9.0).at[:, :, 8:].set(9.0), cfg))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_have_the_weights_type(dtype):
    low = jax.tree.map(lambda w: w.astype(dtype), PARAMS)
    x = jnp.asarray(pixels(np.random.default_rng(0)))[None]
    assert run(low, x, TOWER).dtype == dtype
