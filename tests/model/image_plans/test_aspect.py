"""InternVL's tiles: the grid of a picture is transformers', and every tile is cut from where it belongs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from vlm_mu_jax.model.image_plans.aspect import AspectTiles

sides = st.integers(1, 3000)


@given(sides, sides, st.integers(1, 4), st.integers(1, 12))
def test_the_grid_is_that_of_transformers(height, width, fewest, most):
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), fewest, most)
    plan = AspectTiles(4, 448, fewest, most)
    assert plan.grid((height, width)) == (rows, columns)
    encoded = rows * columns + (rows * columns > 1)
    assert len(plan.views((height, width))) == encoded <= plan.tiles
    assert plan.layout((height, width)) == ("<img>", 4 * encoded, "</img>")
    assert plan.gather((height, width)).tolist() == list(range(4 * encoded))


def test_tiles_cover_the_scaled_picture_row_by_row_and_a_small_view_follows():
    plan = AspectTiles(4, 10)
    views = plan.views((21, 30))
    assert [view.box for view in views] == [(y, x, 10, 10) for y in (0, 10) for x in (0, 10, 20)] + [None]
    assert {view.scaled for view in views[:-1]} == {((20, 30),)} and views[-1].scaled == ((10, 10),)
    assert plan.views((5, 5)) == plan.views((10, 10)) and len(plan.views((5, 5))) == 1


def test_bounds_are_those_of_the_image_processor():
    plan = AspectTiles(4, 10)
    assert plan.fitted({"min_patches": 2, "max_patches": 6}) == dataclasses.replace(plan, fewest=2, most=6)
    assert plan.fitted({}) == plan and plan.tiles == 13
    whole = plan.fitted({"max_patches": 1})
    assert whole.tiles == 1 and whole.varies  # its size is asked for all the same
    with pytest.raises(ValueError, match="max_patches"):
        plan.fitted({"max_patches": 0})
