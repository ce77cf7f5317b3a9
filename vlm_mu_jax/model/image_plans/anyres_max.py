"""LLaVA-OneVision's image plans: tiles whose tokens are scaled down when they are too many, and pictures among others.

Sources: transformers@modeling_llava_onevision.py (pack_image_features), processing_llava_onevision.py and
image_processing_pil_llava_onevision.py.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.model.image_plans.image_plan import Blend, Cut, Layout, Size, View
from vlm_mu_jax.model.image_plans.tiled import Tiled

TAPS = 4  # features that bilinear interpolation blends


@dataclasses.dataclass(frozen=True)
class AnyresMax(Cut):
    """A picture alone in its prompt: as `Tiled`, but where the tiles have more than about `most` * P tokens, these are
    interpolated down.

    tiled: the tiles. most: the number in "anyres_max_9".
    """

    extra = 1  # the newline

    tiled: Tiled
    most: int

    @property
    def tiles(self) -> int:
        return self.tiled.tiles

    @property
    def most_tokens(self) -> int:
        """At least as many as any picture has: up to 1.1 times `most` along either side, tokens stay as they are."""
        side, size = self.tiled.side, self.tiled.image_size
        kept = math.ceil(1.21 * self.most * side**2)
        grids = ((height // size * side, width // size * side) for height, width in self.tiled.pinpoints)
        return self.tiled.P + max(min(rows * columns, kept) + rows for rows, columns in grids)

    def layout(self, size: Size) -> Layout:
        return (len(self.gather(size)),)

    def views(self, size: Size) -> tuple[View, ...]:
        return self.tiled.views(size)

    def gather(self, size: Size) -> Blend:
        """Tokens of the view, then of the tiles row by row as one picture, a newline (feature 0) after each row."""
        return _gather(size, self)

    def fitted(self, fields: Mapping[str, Any]) -> "AnyresMax":
        return dataclasses.replace(self, tiled=self.tiled.fitted(fields))

    def problems(self) -> list[str]:
        found = self.tiled.problems()
        return [*found, f"vision_aspect_ratio: anyres_max_{self.most} leaves no tokens"] if self.most < 1 else found


@dataclasses.dataclass(frozen=True)
class Squared(Cut):
    """A picture among others in its prompt: padded to a square, encoded once, a newline (feature 0) behind it.

    P: image tokens of an encoded image. fill: colour of the padding, 0..255.
    """

    extra = 1  # the newline

    P: int
    fill: tuple[int, int, int] = (127, 127, 127)

    @property
    def tiles(self) -> int:
        return 1

    @property
    def most_tokens(self) -> int:
        return self.P + 1

    def layout(self, size: Size) -> Layout:
        return (self.P + 1,)

    def views(self, size: Size) -> tuple[View, ...]:
        return (View(padded=self.fill, square=True),)

    def gather(self, size: Size) -> Blend:
        return _plain(np.array([*range(1, 1 + self.P), 0], np.int32))

    def fitted(self, fields: Mapping[str, Any]) -> "Squared":
        red, green, blue = (int(255 * value) for value in fields["image_mean"])
        return dataclasses.replace(self, fill=(red, green, blue))

    def problems(self) -> list[str]:
        return []


@functools.lru_cache(maxsize=256)
def _gather(size: Size, plan: AnyresMax) -> Blend:
    cells = plan.tiled.cells(size)
    rows, columns = cells.shape
    ratio = math.sqrt(rows * columns / (plan.most * plan.tiled.side**2))
    tiles = _interpolated(cells, (int(rows // ratio), int(columns // ratio))) if ratio > 1.1 else _plain(cells)
    newline = ((0, 0), (0, 1), (0, 0))
    index = np.pad(tiles.index_QK, newline).reshape(-1, TAPS)
    weight = np.pad(tiles.weight_QK, newline).reshape(-1, TAPS)
    weight[tiles.index_QK.shape[1] :: tiles.index_QK.shape[1] + 1, 0] = 1
    view = _plain(1 + np.arange(plan.tiled.P, dtype=np.int32))
    found = Blend(np.concatenate([view.index_QK, index]), np.concatenate([view.weight_QK, weight]))
    for array in (found.index_QK, found.weight_QK):
        array.setflags(write=False)  # shared by all pictures of this size
    return found


def _plain(table: np.ndarray) -> Blend:
    """Every token a feature as it is."""
    index = np.zeros((*table.shape, TAPS), np.int32)
    weight = np.zeros(index.shape, np.float32)
    index[..., 0], weight[..., 0] = table, 1
    return Blend(index, weight)


def _interpolated(cells: np.ndarray, size: Size) -> Blend:
    """Bilinear interpolation of a grid of features, as torch.nn.functional.interpolate does it (align_corners off)."""
    (top, bottom, down), (left, right, across) = (_taps(n, to) for n, to in zip(cells.shape, size, strict=True))
    corners = [cells[np.ix_(y, x)] for y in (top, bottom) for x in (left, right)]
    weights = [y[:, None] * x[None] for y in (1 - down, down) for x in (1 - across, across)]
    return Blend(np.stack(corners, -1), np.stack(weights, -1).astype(np.float32))


def _taps(have: int, want: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every place along one axis: the cells before and behind it, and the weight of the one behind."""
    at = np.maximum((np.arange(want) + 0.5) * (have / want) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), have - 1)
    return first, np.minimum(first + 1, have - 1), at - first
