"""InternVL's image plan: a picture is stretched over the grid of tiles that comes nearest to its shape.

Source: transformers@image_processing_pil_got_ocr2.py (InternVL's image processor) and processing_internvl.py.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.model.image_plans.image_plan import Cut, Layout, Size, View


@dataclasses.dataclass(frozen=True)
class AspectTiles(Cut):
    """The tiles row by row, then (behind more than one) a small view of the whole picture; see `image_plan.ImagePlan`.

    P: image tokens of an encoded image. image_size: pixels along a side of it. fewest, most: tiles of a picture.
    before, after: texts around a picture's tokens.
    """

    P: int
    image_size: int
    fewest: int = 1
    most: int = 12
    before: str = "<img>"
    after: str = "</img>"

    @property
    def tiles(self) -> int:
        return max((_encoded(grid) for grid in _grids(self.fewest, self.most)), default=1)

    @property
    def most_tokens(self) -> int:
        return self.tiles * self.P

    def layout(self, size: Size) -> Layout:
        return self.before, _encoded(self.grid(size)) * self.P, self.after

    def views(self, size: Size) -> tuple[View, ...]:
        rows, columns = self.grid(size)
        side = self.image_size
        scaled = ((rows * side, columns * side),)
        tiles = tuple(View(scaled, box=(y * side, x * side, side, side)) for y in range(rows) for x in range(columns))
        return tiles if len(tiles) == 1 else (*tiles, View(((side, side),)))

    def gather(self, size: Size) -> np.ndarray:
        return np.arange(_encoded(self.grid(size)) * self.P, dtype=np.int32)

    def grid(self, size: Size) -> Size:
        """Rows and columns of tiles. Of grids that come as near, the larger one, if the picture covers half of it."""
        height, width = size
        best, smallest = (1, 1), float("inf")
        for rows, columns in _grids(self.fewest, self.most):
            difference = abs(width / height - columns / rows)
            covers = height * width > 0.5 * self.image_size**2 * rows * columns
            if difference < smallest or (difference == smallest and covers):
                best, smallest = (rows, columns), difference
        return best

    def fitted(self, fields: Mapping[str, Any]) -> "AspectTiles":
        """With the bounds of the image processor. `crop_to_patches` is always on: transformers' InternVLProcessor says
        so over the file."""
        bounds = {"fewest": fields.get("min_patches", 1), "most": fields.get("max_patches", 12)}
        for name, value in bounds.items():
            if type(value) is not int or not 1 <= value <= 64:
                file_name = "min_patches" if name == "fewest" else "max_patches"
                raise ValueError(f"{file_name} {value!r} is no number of tiles from 1 to 64")
        return dataclasses.replace(self, **bounds)

    def problems(self) -> list[str]:
        return []


@functools.lru_cache(maxsize=64)
def _grids(fewest: int, most: int) -> tuple[Size, ...]:
    """(rows, columns) with so many tiles, small ones first, of equals the tall ones first."""
    pairs = ((rows, columns) for columns in range(1, most + 1) for rows in range(1, most + 1))
    return tuple(sorted((grid for grid in pairs if fewest <= grid[0] * grid[1] <= most), key=lambda g: g[0] * g[1]))


def _encoded(grid: Size) -> int:
    """Encoded images of a picture on this grid."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if tiles > 1 else 1
