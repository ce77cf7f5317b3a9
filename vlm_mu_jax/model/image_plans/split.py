"""The image plan of Idefics3 and SmolVLM: tiles row by row, each with its row and column, and the whole picture.

Source: transformers@image_processing_pil_idefics3.py and processing_idefics3.py.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.model.image_plans.image_plan import Cut, Layout, Size, View

_LARGEST = 4096  # pixels of a picture's longer side, whatever the image processor's config says
_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"


@dataclasses.dataclass(frozen=True)
class SplitTiles(Cut):
    """See `image_plan.ImagePlan`.

    P: image tokens of an encoded image. image_size: pixels along a side of it.
    longest: what the longer side of every picture is first scaled to, up or down; None for its own size.
    split: whether it is cut into tiles.
    """

    P: int
    image_size: int
    longest: int | None
    split: bool = True

    @property
    def tiles(self) -> int:
        if not self.split:
            return 1
        longest = _LARGEST if self.longest is None else min(self.longest + self.longest % 2, _LARGEST)
        side = math.ceil(longest / self.image_size)
        return side * side + 1 if side > 1 else 1

    @property
    def most_tokens(self) -> int:
        return self.tiles * self.P

    def layout(self, size: Size) -> Layout:
        rows, columns = self.grid(size)
        found: list[str | int] = []
        for row in range(rows):
            for column in range(columns):
                line_end = "\n" if row and not column else ""
                found += [f"{line_end}{_AROUND}<row_{row + 1}_col_{column + 1}>", self.P]
        return *found, ("\n\n" if rows else "") + _AROUND + _WHOLE, self.P, _AROUND

    def views(self, size: Size) -> tuple[View, ...]:
        rows, columns = self.grid(size)
        side = self.image_size
        tiles = [(y * side, x * side, side, side) for y in range(rows) for x in range(columns)]
        steps = self._steps(size)
        whole = steps if steps and steps[-1] == (side, side) else (*steps, (side, side))
        return *(View(steps, box=box) for box in tiles), View(whole)

    def gather(self, size: Size) -> np.ndarray:
        rows, columns = self.grid(size)
        return np.arange((rows * columns + 1) * self.P, dtype=np.int32)

    def grid(self, size: Size) -> Size:
        """Rows and columns of tiles; (0, 0) for a picture that is one encoded image."""
        if not self.split:
            return 0, 0
        height, width = self._steps(size)[-1]
        rows, columns = height // self.image_size, width // self.image_size
        return (rows, columns) if rows * columns > 1 else (0, 0)

    def _steps(self, size: Size) -> tuple[Size, ...]:
        """The sizes that a picture takes before it is cut."""
        steps = () if self.longest is None else (_to_longest(size, self.longest),)
        return (*steps, _to_multiple(steps[-1] if steps else size, self.image_size)) if self.split else steps

    def fitted(self, fields: Mapping[str, Any]) -> "SplitTiles":
        tile = fields["max_image_size"]["longest_edge"]
        if tile != self.image_size:
            raise ValueError(f"max_image_size {tile} is not the tower's {self.image_size}")
        size, split, longest = fields["size"], fields.get("do_image_splitting", True), None
        if fields.get("do_resize", True):
            longest = size.get("longest_edge")
            if type(longest) is not int or longest < 1:
                raise ValueError(f"size {size!r} has no longest_edge")
        elif split:  # a picture of any size would take any number of tiles
            raise ValueError("do_resize false is not supported with do_image_splitting")
        return dataclasses.replace(self, longest=longest, split=bool(split))

    def problems(self) -> list[str]:
        return []


def plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The image processor's fields for one encoded image, which the plan's views have brought to its size."""
    side = fields["max_image_size"]["longest_edge"]
    return {**fields, "do_resize": True, "do_center_crop": False, "size": {"height": side, "width": side}}


def _to_longest(size: Size, longest: int) -> Size:
    height, width = size
    aspect = width / height
    if width >= height:
        width, height = longest, int(longest / aspect)
        height += height % 2
    else:
        height, width = longest, int(longest * aspect)
        width += width % 2
    return _at_most(max(height, 1), max(width, 1))


def _at_most(height: int, width: int) -> Size:
    aspect = width / height
    if width >= height and width > _LARGEST:
        width, height = _LARGEST, int(_LARGEST / aspect)
    elif height > width and height > _LARGEST:
        height, width = _LARGEST, int(_LARGEST * aspect)
    return max(height, 1), max(width, 1)


def _to_multiple(size: Size, side: int) -> Size:
    """The next multiples of a tile's side."""
    height, width = size
    aspect = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / aspect) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * aspect) / side) * side
    return height, width
