"""Images of any resolution, as LLaVA-NeXT reads them: cut into tiles, and packed into one sequence of image tokens.

A *pinpoint* is a height and width that an image may be tiled at. An image becomes a small view of the whole, and the
tiles of the pinpoint that fits it best. For the tiles it is scaled into the pinpoint and padded with black.

Its tokens are those of the view, then those of the tiles, read row by row as one picture. Rows and columns that are
padding are left out, and a newline follows each row. The number of tokens depends on the image's size alone.

The arithmetic of pinpoints and tokens is the model's: `model.image_plans.Tiled`. Sources:
transformers@image_processing_pil_llava_next.py and processing_llava_next.py, which follow
haotian-liu/LLaVA@llava/mm_utils.py and llava_arch.py.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vlm_mu_jax.data import images
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.image_plans import Size


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """One image as the model reads it.

    Attributes:
      pixels_MHWC: the view of the whole image, then its tiles row by row, then zeros up to the most tiles that an image
        of this model has.
      gather_Q: which feature each of its image tokens is, as in `model.vlm.Batch`.
      features: number of features of all M tiles together, M * P.
    """

    pixels_MHWC: np.ndarray
    gather_Q: np.ndarray
    features: int

    @property
    def nbytes(self) -> int:
        return self.pixels_MHWC.nbytes + self.gather_Q.nbytes

    def tobytes(self) -> bytes:
        return self.pixels_MHWC.tobytes() + self.gather_Q.tobytes()


def prepare(image: Image.Image, settings: images.ImageSettings, vision: VisionConfig) -> Tiles:
    """An RGB image as normalised tiles.

    The pixels equal those of transformers' LlavaNextImageProcessor (PIL backend).
    """
    size = image.height, image.width
    pinpoint = vision.plan.best_pinpoint(size)
    scaled = _scaled(size, pinpoint)
    canvas = Image.new("RGB", pinpoint[::-1])
    left, top = (pinpoint[1] - scaled[1]) // 2, (pinpoint[0] - scaled[0]) // 2
    canvas.paste(image.resize(scaled[::-1], settings.resample), (left, top))
    side = vision.image_size
    corners = [(x, y) for y in range(0, pinpoint[0], side) for x in range(0, pinpoint[1], side)]
    view = image.resize((settings.size, settings.size), settings.resample)
    tiles = [view, *(canvas.crop((x, y, x + side, y + side)) for x, y in corners)]
    pixels = np.zeros((vision.tiles, settings.crop, settings.crop, 3), np.float32)
    for i, tile in enumerate(tiles):
        pixels[i] = images.to_pixels(tile, settings)
    return Tiles(pixels, vision.plan.gather(size), vision.tiles * vision.P)


def _scaled(size: Size, pinpoint: Size) -> Size:
    """The image's size when it fills the pinpoint in one direction. The other direction is rounded up."""
    down, across = pinpoint[0] / size[0], pinpoint[1] / size[1]
    if across < down:
        return min(math.ceil(size[0] * across), pinpoint[0]), pinpoint[1]
    return pinpoint[0], min(math.ceil(size[1] * down), pinpoint[1])


def stack(
    rows: Sequence[Sequence[np.ndarray | Tiles]], most: int, like: np.ndarray | Tiles, width: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """`pixels_BMHWC` and `gather_BQ` of a batch. Their shapes do not depend on the images' sizes.

    Args:
      rows: prepared images of every row, or the tower's output in their place. Zeros fill short rows.
      most: images that a row can hold.
      like: any image of the same model, for the shapes.
      width: Q. The length of the token rows will do, since they hold every image token.

    Returns:
      The pixels, and the gather table, or None for images that are not tiled.
    """
    tiled = isinstance(like, Tiles)
    one = like.pixels_MHWC if tiled else like[None]
    pixels = np.zeros((len(rows), most * len(one), *one.shape[1:]), one.dtype)
    gathers = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        filled = 0
        for j, image in enumerate(row):
            pixels[i, j * len(one) : (j + 1) * len(one)] = image.pixels_MHWC if tiled else image
            if tiled:
                end = filled + len(image.gather_Q)
                gathers[i, filled:end] = np.where(image.gather_Q, image.gather_Q + j * image.features, 0)
                filled = end
    return pixels, gathers if tiled else None
