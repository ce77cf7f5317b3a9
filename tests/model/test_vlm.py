"""Vision, projector and decoder joined: placement of images, causality, padding, mixed batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import (
    IMAGE,
    LLAVA,
    TEXT_ONLY,
    VISION,
    clip_vision,
    mixed_rows,
    pad,
    pixels,
    random_params,
    run,
    words,
)
from vlm_mu_jax.model.vlm import Batch, cast, embed, encode_images, forward, logits_of

PARAMS = random_params(LLAVA)
P = VISION.P
embedded, encoded = (jax.jit(function, static_argnums=2) for function in (embed, encode_images))
# The same float32 sums in another order: a few roundings of 6e-8 per layer, logits of order 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def logits(batch, params=PARAMS, cfg=LLAVA):
    return np.asarray(run(params, batch, cfg).logits_BTV)


def test_no_gradient_flows_from_a_token_to_earlier_ones():
    """From the logits at t to the embedding at s: zero iff s > t, image tokens included."""
    rows, images = mixed_rows()
    batch = pad(rows[:1], images[:1])
    T = batch.tokens_BT.shape[1]

    def logits_from(x_BTD):
        features = Batch(jnp.full((1, T), IMAGE), batch.lengths_B, features_BQD=x_BTD)
        return forward(PARAMS, features, LLAVA).logits_BTV[0].sum(-1)

    jacobian = jax.jit(jax.jacrev(logits_from))(embedded(PARAMS, batch, LLAVA))[:, 0]
    touched = np.abs(np.asarray(jacobian)).max(-1) > 0
    np.testing.assert_array_equal(touched, np.tri(T, dtype=bool))


def test_pixels_reach_the_tokens_from_their_image_on_and_none_before():
    rng = np.random.default_rng(0)
    row = words(rng, 3) + [IMAGE] * P + words(rng, 2) + [IMAGE] * P + words(rng, 3)
    batch = pad([row], [[pixels(rng), pixels(rng)]])

    def by_token(x):
        return forward(PARAMS, batch.replace(pixels_BMHWC=x), LLAVA).logits_BTV[0].sum(-1)

    jacobian = np.asarray(jax.jit(jax.jacrev(by_token))(batch.pixels_BMHWC))[:, 0]  # [T, M, H, W, C]
    reached = np.abs(jacobian).max(axis=(2, 3, 4)) > 0
    for image, start in enumerate((3, 3 + P + 2)):
        np.testing.assert_array_equal(reached[:, image], np.arange(len(row)) >= start)


def test_images_fill_their_places_in_order():
    rows, images = mixed_rows()
    batch = pad(rows, images)
    got = np.asarray(embedded(PARAMS, batch, LLAVA))
    features = np.asarray(encoded(PARAMS, batch.pixels_BMHWC, LLAVA))
    for i, row in enumerate(rows):
        want = np.asarray(PARAMS["decoder"]["embed_VD"])[np.array(row)]
        places = np.flatnonzero(np.array(row) == IMAGE)
        want[places] = features[i, : len(places)]
        np.testing.assert_array_equal(got[i, : len(row)], want)


def test_tiles_are_packed_in_the_order_they_are_asked_for():
    """LLaVA-NeXT: any feature of any tile, any number of times, and the newline between them."""
    tiled = clip_vision(**dataclasses.asdict(VISION.tower), pinpoints=((8, 16), (16, 8)))
    cfg = dataclasses.replace(LLAVA, vision=tiled)
    params = random_params(cfg)
    rng = np.random.default_rng(0)
    rows = [words(rng, 2) + [IMAGE] * 6 + words(rng, 1), [IMAGE] * 9]
    batch = pad(rows, [[pixels(rng) for _ in range(3)], [pixels(rng)]])
    order = rng.integers(0, 3 * P + 1, (2, 10)).astype(np.int32)
    order[0, 1] = 0
    got = np.asarray(embedded(params, batch.replace(gather_BQ=order), cfg))
    features = np.asarray(encoded(params, batch.pixels_BMHWC, cfg))
    for i, row in enumerate(rows):
        known = np.concatenate([np.asarray(params["projector"]["newline_D"])[None], features[i]])
        want = np.asarray(params["decoder"]["embed_VD"])[np.array(row)]
        places = np.flatnonzero(np.array(row) == IMAGE)
        want[places] = known[order[i, : len(places)]]
        np.testing.assert_allclose(got[i, : len(row)], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_images", [1, 3])
def test_any_number_of_images_anywhere(n_images):
    """Images in the middle are the same as their features given as tokens."""
    rng = np.random.default_rng(n_images)
    row = words(rng, 2)
    for _ in range(n_images):
        row += [IMAGE] * P + words(rng, int(rng.integers(0, 3)))
    row += words(rng, 1)
    batch = pad([row], [[pixels(rng) for _ in range(n_images)]])
    x = embedded(PARAMS, batch, LLAVA)
    as_tokens = Batch(jnp.full((1, len(row)), IMAGE), batch.lengths_B, features_BQD=x)
    np.testing.assert_allclose(logits(batch), logits(as_tokens), **CLOSE)


def test_features_equal_pixels():
    rows, images = mixed_rows()
    batch = pad(rows, images)
    features = encoded(PARAMS, batch.pixels_BMHWC, LLAVA)
    got = logits(batch.replace(pixels_BMHWC=None, features_BQD=features))
    np.testing.assert_allclose(got, logits(batch), **CLOSE)


@pytest.mark.parametrize("fill", [0, 7, IMAGE])
def test_padding_changes_nothing(fill):
    rows, images = mixed_rows()
    want, got = logits(pad(rows, images)), logits(pad(rows, images, T=24, fill=fill))
    for i, row in enumerate(rows):
        np.testing.assert_allclose(got[i, : len(row)], want[i, : len(row)], **CLOSE)


def test_a_mixed_batch_equals_its_rows_one_by_one():
    rows, images = mixed_rows()
    batch = pad(rows, images)
    together = logits(batch)
    for i, row in enumerate(rows):
        alone = logits(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch))
        np.testing.assert_allclose(together[i, : len(row)], alone[0, : len(row)], **CLOSE)


def test_a_row_without_an_image_equals_the_text_only_model():
    rows, images = mixed_rows()
    alone = logits(pad([rows[1]]), {"decoder": PARAMS["decoder"]}, TEXT_ONLY)
    np.testing.assert_allclose(logits(pad(rows, images))[1, : len(rows[1])], alone[0], **CLOSE)


def test_logits_are_the_vocabulary_product_of_the_hidden_states():
    rows, images = mixed_rows()
    out = run(PARAMS, pad(rows, images), LLAVA)
    head = np.asarray(PARAMS["decoder"]["head_DV"])
    np.testing.assert_allclose(out.logits_BTV, np.asarray(out.hidden_BTD) @ head, **CLOSE)
    without = run(PARAMS, pad(rows, images), LLAVA, logits=False)
    assert without.logits_BTV is None
    np.testing.assert_allclose(without.hidden_BTD, out.hidden_BTD, **CLOSE)


def test_tied_embeddings_are_the_head():
    cfg = LLAVA.with_text(tie_embeddings=True)
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, cfg.text.D)), jnp.float32)
    params = random_params(cfg)
    want = logits_of({"decoder": {"head_DV": params["decoder"]["embed_VD"].T}}, hidden, LLAVA)
    np.testing.assert_allclose(logits_of(params, hidden, cfg), want, rtol=1e-5, atol=1e-5)


def test_low_precision_weights_give_float32_logits_near_the_exact_ones():
    """bfloat16 holds 8 bits: each of the about ten roundings in a row moves a value of order 1 by up to 2**-9."""
    rows, images = mixed_rows()
    low = run(cast(PARAMS, jnp.bfloat16), pad(rows, images), LLAVA)
    assert low.hidden_BTD.dtype == jnp.bfloat16 and low.logits_BTV.dtype == jnp.float32
    want = logits(pad(rows, images))
    for i, row in enumerate(rows):
        error = np.asarray(low.logits_BTV)[i, : len(row)] - want[i, : len(row)]
        assert np.sqrt((error**2).mean()) < 0.1 * want.std()


def test_every_parameter_that_is_read_moves_the_loss():
    """Only the final vision norm and vision blocks behind the feature layer are dead, as in LLaVA."""
    rows, images = mixed_rows()

    def loss(params):
        return jax.nn.logsumexp(forward(params, pad(rows, images), LLAVA).logits_BTV, axis=-1).mean()

    gradients = jax.jit(jax.grad(loss))(PARAMS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = "/".join(str(k.key) for k in path)
        alive = not name.startswith("vision/post_norm")
        assert (np.abs(np.asarray(leaf)).max() > 0) == alive, name
        if name.startswith("vision/layers"):
            assert not np.asarray(leaf)[1:].any(), name  # feature layer -2 of two blocks is the first one's output
