"""Pictures cut into several encoded images, tiles or patches, whose tokens are packed into one sequence.

What is cut from a picture, and which feature each of its tokens is, says the model's image plan
(`model.image_plans`). The number of tokens depends on the picture's size alone.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from vlm_mu_jax.data import images
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.image_plans.image_plan import Blend, ImagePlan, Layout, Size, Table, View
from vlm_mu_jax.model.image_plans.patches import Patches


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """One picture as the model reads it.

    Attributes:
      pixels_MHWC: its encoded images. Of a model that reads pictures of any size: its patches, blocks of them that
        become one image token together.
      gather_Q: which feature each of its image tokens is, as in `model.vlm.Batch`.
      layout: what stands for it in a prompt.
      extra: features before those of the images, see `image_plans.ImagePlan.extra`.
      P: features of one encoded image. most: the most encoded images that a picture of this model has.
      grid: rows and columns of its image tokens, where it was cut into patches; P and most say nothing then.
    """

    pixels_MHWC: np.ndarray
    gather_Q: Table
    layout: Layout
    extra: int = 0
    P: int = 0
    most: int = 0
    grid: Size | None = None

    @property
    def nbytes(self) -> int:
        return self.pixels_MHWC.nbytes + sum(table.nbytes for table in jax.tree.leaves(self.gather_Q))

    def tobytes(self) -> bytes:
        arrays = (self.pixels_MHWC, *jax.tree.leaves(self.gather_Q), np.array(self.grid or (), np.int32))
        return b"".join(array.tobytes() for array in arrays)


@dataclasses.dataclass(frozen=True)
class Among:
    """A picture that shares its prompt with others, of a model that reads it differently then."""

    picture: Any  # as `prompts.Picture`


class Stacked(NamedTuple):
    """Images of a batch, fields of `model.vlm.Batch`."""

    pixels_BMHWC: np.ndarray
    gather_BQ: Table | None = None
    grid_BI2: np.ndarray | None = None


def prepare(
    image: Image.Image, settings: images.ImageSettings, vision: VisionConfig, plan: ImagePlan | None = None
) -> Tiles:
    """An RGB picture as normalised encoded images, cut as the image plan says, by default as one alone in its prompt.

    The pixels equal those of transformers' image processors (PIL backend).
    """
    plan, size, pixels = plan or vision.plan, (image.height, image.width), []
    if isinstance(plan, Patches):
        return _in_patches(image, settings, plan)
    whole: dict[View, Image.Image] = {}  # what several views are cut from
    for view in plan.views(size):
        uncut = dataclasses.replace(view, box=None)
        if uncut not in whole:
            whole[uncut] = _scaled(image, uncut, settings)
        pixels.append(images.to_pixels(_cut(whole[uncut], view.box), settings))
    return Tiles(np.stack(pixels), plan.gather(size), plan.layout(size), plan.extra, vision.P, vision.tiles)


def _in_patches(image: Image.Image, settings: images.ImageSettings, plan: Patches) -> Tiles:
    size = image.height, image.width
    height, width = plan.scaled(size)
    pixels_HWC = images.normalised(image.resize((width, height), settings.resample), settings)
    cut = patches(pixels_HWC, plan.patch_size, plan.merge)
    return Tiles(cut, plan.gather(size), plan.layout(size), grid=plan.grid(size))


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
    if view.padded is not None:
        image = images.to_square(image, view.padded)
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
    encoded: int | None = None,
) -> Stacked:
    """The images of a batch.

    Args:
      rows: prepared images of every row, or the tower's output in their place. Zeros fill short rows.
      most: images that a row can hold.
      like: any image of the same model, for the shapes.
      width: Q. The length of the token rows will do, since they hold every image token.
      tokens: image tokens for whose patches there is room in a row; `width` by default.
      encoded: M where pictures are cut into tiles, so that shapes do not depend on the images. By default it is one of
        few sizes that holds those here, so that small pictures do not take the tower's time of large ones.
    """
    if not isinstance(like, Tiles):
        pixels = np.zeros((len(rows), most, *like.shape), like.dtype)
        for i, row in enumerate(rows):
            pixels[i, : len(row)] = np.array(row).reshape(-1, *like.shape)
        return Stacked(pixels)
    if like.grid is not None:
        return _stacked_patches(rows, most, like, tokens or width)
    M = encoded or min(most * like.most, _bucket(max(sum(len(image.pixels_MHWC) for image in row) for row in rows)))
    pixels = np.zeros((len(rows), M, *like.pixels_MHWC.shape[1:]), like.pixels_MHWC.dtype)
    gathers = jax.tree.map(lambda x: np.zeros((len(rows), width, *x.shape[1:]), x.dtype), like.gather_Q)
    for i, row in enumerate(rows):
        before = filled = 0
        for image in row:
            end, last = before + len(image.pixels_MHWC), filled + len(image.gather_Q)
            pixels[i, before:end] = image.pixels_MHWC
            _put(gathers, i, filled, last, _moved(image, before))
            before, filled = end, last
    return Stacked(pixels, gathers)


def _bucket(count: int) -> int:
    """A number of encoded images, two per doubling, so that few shapes are compiled."""
    step = 2 ** max(0, (max(count, 1) - 1).bit_length() - 2)
    return -(-max(count, 1) // step) * step


def _put(gathers: Table, row: int, first: int, last: int, table: Table) -> None:
    for all_rows, one in zip(jax.tree.leaves(gathers), jax.tree.leaves(table), strict=True):
        all_rows[row, first:last] = one


def _moved(image: Tiles, images_before: int) -> Table:
    """Its gather table behind so many other encoded images of the row."""
    table = image.gather_Q
    index = table.index_QK if isinstance(table, Blend) else table
    moved = np.where(index >= image.extra, index + images_before * image.P, index)
    return table.replace(index_QK=moved) if isinstance(table, Blend) else moved


def _stacked_patches(rows: Sequence[Sequence[Tiles]], most: int, like: Tiles, tokens: int) -> Stacked:
    """The patches of a row's pictures one behind the other."""
    one = like.pixels_MHWC
    pixels = np.zeros((len(rows), tokens * (len(one) // len(like.gather_Q)), *one.shape[1:]), one.dtype)
    grids = np.zeros((len(rows), most, 2), np.int32)
    for i, row in enumerate(rows):
        filled = 0
        for j, image in enumerate(row):
            end = filled + len(image.pixels_MHWC)
            pixels[i, filled:end], grids[i, j], filled = image.pixels_MHWC, image.grid, end
    return Stacked(pixels, grid_BI2=grids)
