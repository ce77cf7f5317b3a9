"""Tiles, counts and packing of LLaVA-NeXT's images equal those of transformers at every size."""

from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from tests.model.tiny import clip_vision
from vlm_mu_jax.data import images, tiling
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.image_plans.tiled import Tiled

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RELEASED = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SIDES = st.integers(1, 130)


def tower(side, patch, shapes):
    pinpoints = tuple((side * down, side * across) for down, across in shapes)
    return clip_vision(image_size=side, patch_size=patch, D=8, L=2, N=2, F=8, pinpoints=pinpoints)


TOWERS = [
    tower(24, 6, [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]),
    tower(14, 7, [(2, 2), (1, 4)]),
    tower(17, 5, [(1, 1), (5, 1)]),  # a tile is no whole number of patches, and one pinpoint has a single tile
]


def picture(height, width):
    return Image.fromarray(np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), np.uint8))


@hypothesis.given(SIDES, SIDES, st.sampled_from(TOWERS), st.sampled_from([2, 3]))
@hypothesis.example(1, 130, TOWERS[0], 3).via("hardly a row")
@hypothesis.example(24, 24, TOWERS[0], 3).via("as large as one tile")
@hypothesis.settings(max_examples=80)
def test_pixels_equal_transformers(height, width, vision, resample):
    side = vision.image_size
    theirs = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=resample,
        image_grid_pinpoints=[list(one) for one in vision.plan.pinpoints],
    )
    want = theirs(picture(height, width), return_tensors="np")["pixel_values"][0].transpose(0, 2, 3, 1)
    settings = images.ImageSettings(side, side, MEAN, STD, resample=resample)
    got = tiling.prepare(picture(height, width), settings, vision)
    assert got.pixels_MHWC.dtype == np.float32 and len(want) <= vision.tiles
    np.testing.assert_array_equal(got.pixels_MHWC, want)


@hypothesis.given(st.integers(1, 3000), st.integers(1, 3000))
@hypothesis.settings(max_examples=300)
def test_the_pinpoint_is_that_of_transformers(height, width):
    pinpoints = [list(one) for one in RELEASED]
    plan = Tiled(P=576, side=24, image_size=336, pinpoints=RELEASED)
    assert plan.best_pinpoint((height, width)) == select_best_resolution((height, width), pinpoints)


def packed_by_transformers(size, vision):
    """Their packing of features that are their own numbers, the newline being 0."""
    pinpoints = [list(one) for one in vision.plan.pinpoints]
    config = SimpleNamespace(
        vision_config=vision.tower, image_grid_pinpoints=pinpoints
    )  # all the method reads of a model
    height, width = vision.plan.best_pinpoint(size)
    tiles = 1 + height * width // vision.image_size**2
    numbers = 1.0 + torch.arange(tiles * vision.P).reshape(tiles, vision.P, 1)
    packed, lengths = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config), [numbers], [size], "default", image_newline=torch.zeros(1)
    )
    assert lengths.tolist() == [len(packed[0])]
    return packed[0][:, 0].numpy().astype(int)


@hypothesis.given(SIDES, SIDES, st.sampled_from(TOWERS))
@hypothesis.example(1, 130, TOWERS[0]).via("all rows but none are padding")
@hypothesis.example(130, 1, TOWERS[0]).via("only newlines are left")
@hypothesis.settings(max_examples=100)
def test_the_packing_equals_that_of_transformers(height, width, vision):
    got = vision.plan.gather((height, width))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, packed_by_transformers((height, width), vision))


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((336, 672), 576 + 24 * (48 + 1)), ((1000, 1000), 576 + 48 * (48 + 1)), ((336, 336), 576 + 24 * (24 + 1))],
)
def test_counts_of_the_released_models(size, tokens):
    """By hand: the view's 24 x 24 tokens, then the rows of patches that are not padding, each with its newline."""
    vision = clip_vision(image_size=336, patch_size=14, D=1024, L=24, N=16, F=4096, pinpoints=RELEASED)
    assert vision.tiles == 5 and len(vision.plan.gather(size)) == tokens
    assert vision.most_tokens == 576 + 48 * (48 + 1) == 2928


def test_stacked_images_point_to_their_own_tiles():
    vision = TOWERS[0]
    settings = images.ImageSettings(24, 24, MEAN, STD)
    wide, tall = (tiling.prepare(picture(*size), settings, vision) for size in ((20, 70), (90, 30)))
    pixels, gathers = tiling.stack([[wide, tall], [tall], []], 2, wide, width=400, encoded=2 * vision.tiles)[:2]
    assert pixels.shape == (3, 2 * vision.tiles, 24, 24, 3) and gathers.shape == (3, 400)
    first, second = len(wide.gather_Q), len(tall.gather_Q)
    np.testing.assert_array_equal(gathers[0, :first], wide.gather_Q)
    later = gathers[0, first : first + second]
    np.testing.assert_array_equal(later == 0, tall.gather_Q == 0)  # a newline is one and the same
    np.testing.assert_array_equal(later[later > 0] - tall.gather_Q[later > 0], len(wide.pixels_MHWC) * vision.P)
    np.testing.assert_array_equal(gathers[1, :second], tall.gather_Q)
    assert not gathers[0, first + second :].any() and not gathers[2].any() and not pixels[2].any()
    one, both = len(wide.pixels_MHWC), len(wide.pixels_MHWC) + len(tall.pixels_MHWC)
    np.testing.assert_array_equal(pixels[0, one:both], tall.pixels_MHWC)
    assert not pixels[0, both:].any()
    fewer, same = tiling.stack([[wide, tall], [tall], []], 2, wide, width=400)[:2]
    assert both <= fewer.shape[1] < 2 * vision.tiles
    np.testing.assert_array_equal(fewer, pixels[:, : fewer.shape[1]])
    np.testing.assert_array_equal(same, gathers)


def test_a_stream_has_room_for_the_tiles_of_its_own_pictures():
    """Not for the most that a picture can have, and whatever is in a batch."""
    vision, settings = TOWERS[0], images.ImageSettings(24, 24, MEAN, STD)
    small, large = (tiling.prepare(picture(*size), settings, vision) for size in ((20, 20), (20, 70)))
    assert len(small.pixels_MHWC) < len(large.pixels_MHWC) < vision.tiles
    rows = [TrainRow(str(n), (1,) * n, (True,) * n, (one,)) for n, one in ((40, small), (90, large))]
    count = lambda one: len(one.pixels_MHWC)  # noqa: E731
    for lengths, found in (((96,), [large, large]), ((48, 96), [small, large])):
        stream = Stream(rows, 1, 0, lengths=lengths, encoded=count)
        shapes = [stream.take([i]).batch.pixels_BMHWC.shape[1] for i in range(2)]
        assert shapes == [count(one) for one in found]
    unknown = Stream(rows, 1, 0)
    assert unknown.take([0]).batch.pixels_BMHWC.shape[1] == vision.tiles


def test_plain_images_are_stacked_without_a_packing():
    one = np.full((4, 4, 3), 2, np.float32)
    pixels, gathers = tiling.stack([[one], []], 1, one, width=9)[:2]
    assert gathers is None and pixels[:, 0, 0, 0, 0].tolist() == [2, 0]
