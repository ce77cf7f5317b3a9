"""Image plans: how a picture becomes encoded images and image tokens, and what stands for it in a prompt.

A plan is the arithmetic that data and model share. `data/tiling.py` does the work on the pixels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.struct
import numpy as np

Size = tuple[int, int]  # height, width
Layout = tuple[str | int, ...]  # what stands for a picture in a prompt: texts, and runs of image tokens by their length


@dataclasses.dataclass(frozen=True)
class View:
    """How one encoded image is taken from a picture: scaled, centred on black, cut out; the image processor's own steps
    (`images.to_pixels`) follow.

    scaled: sizes that the picture is scaled to, one after the other.
    square: scaled to a square of the image processor's own size instead, whatever the picture's shape.
    canvas: size of the black picture in whose middle it is then put; None for none.
    box: (top, left, height, width) of the part that is cut out; None for all of it.
    padded: first of all padded to a square with this colour, 0..255, the picture in the middle; None for no padding.
    """

    scaled: tuple[Size, ...] = ()
    square: bool = False
    canvas: Size | None = None
    box: tuple[int, int, int, int] | None = None
    padded: tuple[int, int, int] | None = None


@flax.struct.dataclass
class Blend:
    """Image tokens that are weighted sums of features.

    index_QK: int32, which features each token blends. weight_QK: float32. In a batch both have rows in front.
    """

    index_QK: Any
    weight_QK: Any

    def __len__(self) -> int:
        return len(self.index_QK)


Table = np.ndarray | Blend  # int32 [Q], one feature for each token; or a blend of them


class ImagePlan(Protocol):
    """A picture -> encoded images -> image tokens.

    tiles: most encoded images of one picture. most_tokens: most image tokens of one picture.
    varies: whether the number of tokens depends on the picture's size; each token's feature is then named by `gather`.
    extra: features that the connector puts before those of the images (`connector.Connector.extra`).
    mark: what the chat template prints for a picture; None = the image token itself.
    """

    @property
    def tiles(self) -> int: ...

    @property
    def most_tokens(self) -> int: ...

    @property
    def varies(self) -> bool: ...

    @property
    def extra(self) -> int: ...

    @property
    def mark(self) -> str | None: ...

    def layout(self, size: Size) -> Layout:
        """What stands for a picture of this size in a prompt, in place of its mark."""

    def views(self, size: Size) -> tuple[View, ...]:
        """The encoded images of a picture of this size, at most `tiles`."""

    def gather(self, size: Size) -> Table | None:
        """Which feature each token of a picture of this size is. Features are counted from the connector's extra
        tokens, then come those of the encoded images, one after the other. None: all features in order."""

    def fitted(self, fields: Mapping[str, Any]) -> "ImagePlan":
        """The plan as an image processor's config makes it.

        Args:
          fields: content of preprocessor_config.json, with its class's defaults.

        Raises:
          ValueError: a field that contradicts the model or cannot be followed, by name.
        """

    def problems(self) -> list[str]:
        """What of the configuration cannot be; empty for a good one."""


@dataclasses.dataclass(frozen=True)
class ImageProcessorKind:
    """A class of transformers that makes pixels of pictures.

    name: value of `image_processor_type`, without an ending such as "Fast".
    defaults: what the class means by a field that is not in its file.
    fields: further fields, which plans read (`ImagePlan.fitted`).
    plain: its fields -> those of CLIPImageProcessor for one encoded image, where they mean something else. Raises
      ValueError for a value that cannot be followed.
    pads_to_square: `do_pad` first pads a picture to a square with the mean colour; elsewhere it fills batches up.
    drawn: side of the pictures that are drawn for the model, such as blank ones; None = that of an encoded image.
    """

    name: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    plain: Callable[[dict[str, Any]], dict[str, Any]] = dict
    pads_to_square: bool = False
    drawn: int | None = None


@dataclasses.dataclass(frozen=True)
class Whole:
    """One encoded image per picture, whose tokens stand in order.

    P: image tokens of an encoded image. before, after: texts around them in a prompt.
    """

    P: int
    before: str = ""
    after: str = ""
    mark: str | None = None

    @property
    def tiles(self) -> int:
        return 1

    @property
    def most_tokens(self) -> int:
        return self.P

    @property
    def varies(self) -> bool:
        return False

    @property
    def extra(self) -> int:
        return 0

    def layout(self, size: Size) -> Layout:
        return tuple(part for part in (self.before, self.P, self.after) if part)

    def views(self, size: Size) -> tuple[View, ...]:
        return (View(),)

    def gather(self, size: Size) -> None:
        return None

    def fitted(self, fields: Mapping[str, Any]) -> "Whole":
        return self

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

    @property
    def extra(self) -> int:
        return 1  # the newline

    @property
    def mark(self) -> None:
        return None

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
