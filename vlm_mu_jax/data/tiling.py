"""Pictures cut into several encoded images, tiles or patches, whose tokens are packed into one sequence.

What is cut from a picture, and which feature each of its tokens is, says the model's image plan
(`model.image_plans`). The number of tokens depends on the picture's size alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlm_mu_jax.data import images
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.image_plans import Layout, Size, View
from vlm_mu_jax.model.patch_plan import Patches


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """One picture as the model reads it.

    Attributes:
      pixels_MHWC: its encoded images, then zeros up to the most that a picture of this model has. Of a model that reads
        pictures of any size: its patches, blocks of them that become one image token together.
      gather_Q: which feature each of its image tokens is, as in `model.vlm.Batch`.
      features: number of features of all M encoded images together, M * P.
      extra: features before them, see `image_plans.ImagePlan.extra`.
      layout: what stands for it in a prompt.
      grid: rows and columns of its image tokens, where it was cut into patches.
    """

    pixels_MHWC: np.ndarray
    gather_Q: np.ndarray
    features: int
    extra: int
    layout: Layout
    grid: Size | None = None

    @property
    def nbytes(self) -> int:
        return self.pixels_MHWC.nbytes + self.gather_Q.nbytes

    def tobytes(self) -> bytes:
        return self.pixels_MHWC.tobytes() + self.gather_Q.tobytes() + np.array(self.grid or (), np.int32).tobytes()


class Stacked(NamedTuple):
    """Images of a batch, fields of `model.vlm.Batch`."""

    pixels_BMHWC: np.ndarray
    gather_BQ: np.ndarray | None = None
    grid_BI2: np.ndarray | None = None


def prepare(image: Image.Image, settings: images.ImageSettings, vision: VisionConfig) -> Tiles:
    """An RGB picture as normalised encoded images, cut as the image plan says.

    The pixels equal those of transformers' image processors (PIL backend).
    """
    plan, size = vision.plan, (image.height, image.width)
    if isinstance(plan, Patches):
        return _in_patches(image, settings, plan)
    pixels = np.zeros((vision.tiles, settings.crop, settings.crop, 3), np.float32)
    whole: dict[View, Image.Image] = {}  # what several views are cut from
    for i, view in enumerate(plan.views(size)):
        uncut = dataclasses.replace(view, box=None)
        if uncut not in whole:
            whole[uncut] = _scaled(image, uncut, settings)
        pixels[i] = images.to_pixels(_cut(whole[uncut], view.box), settings)
    return Tiles(pixels, plan.gather(size), vision.tiles * vision.P, plan.extra, plan.layout(size))


def _in_patches(image: Image.Image, settings: images.ImageSettings, plan: Patches) -> Tiles:
    size = image.height, image.width
    height, width = plan.scaled(size)
    pixels_HWC = images.normalised(image.resize((width, height), settings.resample), settings)
    cut, order = patches(pixels_HWC, plan.patch_size, plan.merge), plan.gather(size)
    return Tiles(cut, order, len(order), plan.extra, plan.layout(size), plan.grid(size))


def patches(picture_HWC: Any, size: int, merge: int) -> Any:
    """Patches [M, size, size, C] of a numpy or jax array, merge x merge of them together, blocks row by row."""
    (height, width, channels), side = picture_HWC.shape, size * merge
    blocks = picture_HWC.reshape(height // side, merge, size, width // side, merge, size, channels)
    return blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, size, size, channels)


def joined(patches_MHWC: np.ndarray, grid: Size) -> np.ndarray:
    """The picture [H, W, C] that was cut into these patches. grid: as in `Tiles`."""
    (rows, columns), (count, p, _, channels) = grid, patches_MHWC.shape
    m = math.isqrt(count // (rows * columns))
    blocks = patches_MHWC.reshape(rows, columns, m, m, p, p, channels).transpose(0, 2, 4, 1, 3, 5, 6)
    return blocks.reshape(rows * m * p, columns * m * p, channels)


def scales(view: View, settings: images.ImageSettings) -> tuple[Size, ...]:
    """Sizes that a picture is scaled to for a view, one after the other."""
    return ((settings.size, settings.size),) if view.square else view.scaled


def _scaled(image: Image.Image, view: View, settings: images.ImageSettings) -> Image.Image:
    for height, width in scales(view, settings):
        image = image.resize((width, height), settings.resample)
    if view.canvas is None:
        return image
    canvas = Image.new("RGB", view.canvas[::-1])
    canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
    return canvas


def _cut(image: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
    if box is None:
        return image
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height))


def stack(
    rows: Sequence[Sequence[np.ndarray | Tiles]],
    most: int,
    like: np.ndarray | Tiles,
    width: int,
    tokens: int | None = None,
) -> Stacked:
    """The images of a batch. Shapes of the arrays do not depend on the images' sizes.

    Args:
      rows: prepared images of every row, or the tower's output in their place. Zeros fill short rows.
      most: images that a row can hold.
      like: any image of the same model, for the shapes.
      width: Q. The length of the token rows will do, since they hold every image token.
      tokens: image tokens for whose patches there is room in a row; `width` by default.
    """
    tiled = isinstance(like, Tiles)
    if tiled and like.grid is not None:
        return _stacked_patches(rows, most, like, tokens or width)
    one = like.pixels_MHWC if tiled else like[None]
    pixels = np.zeros((len(rows), most * len(one), *one.shape[1:]), one.dtype)
    gathers = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        filled = 0
        for j, image in enumerate(row):
            pixels[i, j * len(one) : (j + 1) * len(one)] = image.pixels_MHWC if tiled else image
            if tiled:
                end = filled + len(image.gather_Q)
                gathers[i, filled:end] = _moved(image, j)
                filled = end
    return Stacked(pixels, gathers if tiled else None)


def _stacked_patches(rows: Sequence[Sequence[Tiles]], most: int, like: Tiles, tokens: int) -> Stacked:
    """The patches of a row's pictures one behind the other."""
    one = like.pixels_MHWC
    pixels = np.zeros((len(rows), tokens * (len(one) // like.features), *one.shape[1:]), one.dtype)
    grids = np.zeros((len(rows), most, 2), np.int32)
    for i, row in enumerate(rows):
        filled = 0
        for j, image in enumerate(row):
            end = filled + len(image.pixels_MHWC)
            pixels[i, filled:end], grids[i, j], filled = image.pixels_MHWC, image.grid, end
    return Stacked(pixels, grid_BI2=grids)


def _moved(image: Tiles, images_before: int) -> np.ndarray:
    """Its gather table behind so many other pictures of the row."""
    table = image.gather_Q
    return np.where(table >= image.extra, table + images_before * image.features, table)
