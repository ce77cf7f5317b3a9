"""Tiles of the resolution that fits a picture best, behind a small view of it (LLaVA-NeXT's "anyres")."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.model.image_plans.image_plan import Cut, Layout, Size, View


@dataclasses.dataclass(frozen=True)
class Tiled(Cut):
    """A small view of the whole picture, and the tiles of the pinpoint that fits it best (LLaVA-NeXT's "anyres").

    P: image tokens of an encoded image. side: tokens along one side of a tile. image_size: pixels along it.
    pinpoints: (height, width) a picture may be tiled at.

    Source: arithmetic of transformers@processing_llava_next.py and modeling_llava_next.py (pack_image_features).
    """

    extra = 1  # the newline

    P: int
    side: int
    image_size: int
    pinpoints: tuple[Size, ...]

    @property
    def tiles(self) -> int:
        """The view and the tiles of the largest pinpoint."""
        return 1 + max(height * width // self.image_size**2 for height, width in self.pinpoints)

    @property
    def most_tokens(self) -> int:
        """Those of the view, every patch of the largest pinpoint, and a newline per row."""
        size, side = self.image_size, self.side
        grids = ((height // size * side, width // size * side) for height, width in self.pinpoints)
        return self.P + max(rows * (columns + 1) for rows, columns in grids)

    def layout(self, size: Size) -> Layout:
        return (len(self.gather(size)),)

    def views(self, size: Size) -> tuple[View, ...]:
        """The whole picture, and the tiles of its pinpoint row by row. For these it is scaled into the pinpoint, so
        that it fills one direction, and padded with black."""
        height, width = pinpoint = self.best_pinpoint(size)
        scaled, side = _scaled(size, pinpoint), self.image_size
        corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
        return View(square=True), *(View((scaled,), canvas=pinpoint, box=(*at, side, side)) for at in corners)

    def gather(self, size: Size) -> np.ndarray:
        """Tokens of the view, then of the tiles row by row as one picture, without the rows or columns that are
        padding, a newline (feature 0) after each row."""
        return _gather(size, self)

    def cells(self, size: Size) -> np.ndarray:
        """int32 [rows, columns]: the features of the tiles as one picture, without what is padding."""
        height, width = self.best_pinpoint(size)
        side, columns = self.side, width // self.image_size
        top, left = _padding(size, height // self.image_size * side, columns * side)
        y, x = np.ogrid[top : height // self.image_size * side - top, left : columns * side - left]
        tile, patch = 1 + y // side * columns + x // side, y % side * side + x % side
        return (self.extra + tile * self.P + patch).astype(np.int32)

    def best_pinpoint(self, size: Size) -> Size:
        """The one that keeps most of the picture's pixels, and of those the one with least padding; the first of
        equals."""

        def kept_and_padding(pinpoint: Size) -> tuple[int, int]:
            scale = min(pinpoint[1] / size[1], pinpoint[0] / size[0])
            kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
            return kept, kept - pinpoint[0] * pinpoint[1]

        return max(self.pinpoints, key=kept_and_padding)

    def fitted(self, fields: Mapping[str, Any]) -> "Tiled":
        given = fields.get("image_grid_pinpoints") or ()
        if given and tuple(tuple(sides) for sides in given) != self.pinpoints:
            raise ValueError("image_grid_pinpoints of the image processor and of config.json differ")
        return self

    def problems(self) -> list[str]:
        found = []
        if self.P != self.side**2:
            found.append("vision_feature_select_strategy 'full' leaves a class token in every tile of LLaVA-NeXT")
        for sides in self.pinpoints:
            if len(sides) != 2 or any(type(n) is not int or n < 1 or n % self.image_size for n in sides):
                found.append(f"image_grid_pinpoints: {list(sides)} is not a pair of multiples of {self.image_size}")
        return found


@functools.lru_cache(maxsize=4096)
def _gather(size: Size, plan: Tiled) -> np.ndarray:
    rows = np.pad(plan.cells(size), ((0, 0), (0, 1)))  # a newline after each row
    found = np.concatenate([1 + np.arange(plan.P), rows.ravel()]).astype(np.int32)
    found.setflags(write=False)  # shared by all pictures of this size
    return found


def _padding(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """Rows above (and below) and columns to the left (and right) of a picture of this size in a grid of patches."""
    height, width = size
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _scaled(size: Size, pinpoint: Size) -> Size:
    """The picture's size when it fills the pinpoint in one direction. The other direction is rounded up."""
    down, across = pinpoint[0] / size[0], pinpoint[1] / size[1]
    if across < down:
        return min(math.ceil(size[0] * across), pinpoint[0]), pinpoint[1]
    return pinpoint[0], min(math.ceil(size[1] * down), pinpoint[1])
