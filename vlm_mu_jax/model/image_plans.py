"""Image plans: how many tokens a picture has, and where the feature of each comes from.

Cutting and scaling the pixels is the work of `data/`; a plan is the arithmetic that data and model share.
"""

import dataclasses
import functools
from typing import Protocol

import numpy as np

Size = tuple[int, int]  # height, width


class ImagePlan(Protocol):
    """A picture -> encoded images -> image tokens.

    tiles: most encoded images of one picture. most_tokens: most image tokens of one picture.
    varies: whether the number of tokens depends on the picture's size; each token's feature is then named by `gather`.
    """

    @property
    def tiles(self) -> int: ...

    @property
    def most_tokens(self) -> int: ...

    @property
    def varies(self) -> bool: ...

    def gather(self, size: Size) -> np.ndarray | None:
        """int32 [tokens of a picture of this size]: which feature each is. The table starts with the connector's extra
        tokens, then come the features of the encoded images, one after the other. None: all features in order."""

    def problems(self) -> list[str]:
        """What of the configuration cannot be; empty for a good one."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """One encoded image per picture, whose tokens stand in order. P: image tokens of an encoded image."""

    P: int

    @property
    def tiles(self) -> int:
        return 1

    @property
    def most_tokens(self) -> int:
        return self.P

    @property
    def varies(self) -> bool:
        return False

    def gather(self, size: Size) -> None:
        return None

    def problems(self) -> list[str]:
        return []


@dataclasses.dataclass(frozen=True)
class Tiled:
    """A small view of the whole picture, and the tiles of the pinpoint that fits it best (LLaVA-NeXT's "anyres").

    P: image tokens of an encoded image. side: tokens along one side of a tile. image_size: pixels along it.
    pinpoints: (height, width) a picture may be tiled at.

    Source: arithmetic of transformers@processing_llava_next.py and modeling_llava_next.py (pack_image_features).
    """

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

    @property
    def varies(self) -> bool:
        return True

    def gather(self, size: Size) -> np.ndarray:
        """Tokens of the view, then of the tiles row by row as one picture, without the rows or columns that are
        padding, a newline (feature 0) after each row."""
        return _gather(size, self)

    def best_pinpoint(self, size: Size) -> Size:
        """The one that keeps most of the picture's pixels, and of those the one with least padding; the first of
        equals."""

        def kept_and_padding(pinpoint: Size) -> tuple[int, int]:
            scale = min(pinpoint[1] / size[1], pinpoint[0] / size[0])
            kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
            return kept, kept - pinpoint[0] * pinpoint[1]

        return max(self.pinpoints, key=kept_and_padding)

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
    height, width = plan.best_pinpoint(size)
    side, columns = plan.side, width // plan.image_size
    top, left = _padding(size, height // plan.image_size * side, columns * side)
    y, x = np.ogrid[top : height // plan.image_size * side - top, left : columns * side - left]
    tile, patch = 1 + y // side * columns + x // side, y % side * side + x % side
    rows = np.pad(1 + tile * plan.P + patch, ((0, 0), (0, 1)))  # a newline after each row
    found = np.concatenate([1 + np.arange(plan.P), rows.ravel()]).astype(np.int32)
    found.setflags(write=False)  # shared by all pictures of this size
    return found


def _padding(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """Rows above (and below) and columns to the left (and right) of a picture of this size in a grid of patches."""
    height, width = size
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2
