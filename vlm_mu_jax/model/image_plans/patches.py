"""The image plan of towers that read pictures of any size: scaled a little, then cut into patches."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.image_plans.image_plan import Cut, Size

_MOST_OBLONG = 200  # longer side over shorter


@dataclasses.dataclass(frozen=True)
class Patches(Cut):
    """See `image_plan.ImagePlan`; an encoded image is one patch. merge x merge patches become one image token.

    A picture keeps its shape. Its sides become multiples of merge * patch_size, and its area one between `least` and
    `most` pixels. frames: times that its pixels are repeated in a patch.

    Source: transformers@image_processing_qwen2_vl.py (smart_resize).
    """

    patch_size: int
    merge: int
    least: int = 56 * 56
    most: int = 28 * 28 * 1280
    frames: int = 2

    @property
    def side(self) -> int:
        """Pixels along a side of what becomes one image token."""
        return self.patch_size * self.merge

    @property
    def tiles(self) -> int:
        return self.most_tokens * self.merge**2

    @property
    def most_tokens(self) -> int:
        return max(self.most // self.side**2, 1)

    def scaled(self, size: Size) -> Size:
        """The size that a picture gets.

        Raises:
          InputError: the picture is more oblong than transformers accepts.
        """
        (height, width), side = size, self.side
        if max(size) > _MOST_OBLONG * min(size):
            raise InputError(f"an image of {height} x {width} pixels is too oblong for this model; crop it")
        area = round(height / side) * round(width / side) * side**2
        if area > self.most:
            shrink = math.sqrt(height * width / self.most)
            return tuple(max(1, math.floor(n / shrink / side)) * side for n in size)
        if area < self.least:
            grow = math.sqrt(self.least / (height * width))
            return tuple(math.ceil(n * grow / side) * side for n in size)
        return tuple(round(n / side) * side for n in size)

    def grid(self, size: Size) -> Size:
        """Rows and columns of image tokens of a picture of this size."""
        height, width = self.scaled(size)
        return height // self.side, width // self.side

    def layout(self, size: Size) -> tuple[int]:
        return (math.prod(self.grid(size)),)

    def gather(self, size: Size) -> np.ndarray:
        """All features in order."""
        return np.arange(*self.layout(size), dtype=np.int32)

    def fitted(self, fields: Mapping[str, Any]) -> "Patches":
        same = {"patch_size": self.patch_size, "merge_size": self.merge, "temporal_patch_size": self.frames}
        for name, ours in same.items():
            if fields.get(name, ours) != ours:
                raise ValueError(f"{name} is {fields[name]!r}, config.json says {ours}")
        size = fields.get("size") or {"shortest_edge": self.least, "longest_edge": self.most}
        if others := sorted(size.keys() - {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}):
            raise ValueError(f"size has {', '.join(others)}; a picture of any shape has pixels alone")
        least, most = fields.get("min_pixels"), fields.get("max_pixels")
        least = size.get("shortest_edge", size.get("min_pixels")) if least is None else least
        most = size.get("longest_edge", size.get("max_pixels")) if most is None else most
        if any(type(n) is not int or n < 1 for n in (least, most)) or least > most:
            raise ValueError(f"pictures between {least!r} and {most!r} pixels, by size or min_pixels and max_pixels")
        return dataclasses.replace(self, least=least, most=most)

    def problems(self) -> list[str]:
        return []
