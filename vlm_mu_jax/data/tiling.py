"""Pictures cut into several encoded images, whose tokens are packed into one sequence.

What is cut from a picture, and which feature each of its tokens is, says the model's image plan
(`model.image_plans`). The number of tokens depends on the picture's size alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vlm_mu_jax.data import images
from vlm_mu_jax.model.config import VisionConfig
from vlm_mu_jax.model.image_plans import Layout, Size, View


@dataclasses.dataclass(frozen=True, eq=False)
class Tiles:
    """One picture as the model reads it.

    Attributes:
      pixels_MHWC: its encoded images, then zeros up to the most that a picture of this model has.
      gather_Q: which feature each of its image tokens is, as in `model.vlm.Batch`.
      features: number of features of all M encoded images together, M * P.
      extra: features before them, see `image_plans.ImagePlan.extra`.
      layout: what stands for it in a prompt.
    """

    pixels_MHWC: np.ndarray
    gather_Q: np.ndarray
    features: int
    extra: int
    layout: Layout

    @property
    def nbytes(self) -> int:
        return self.pixels_MHWC.nbytes + self.gather_Q.nbytes

    def tobytes(self) -> bytes:
        return self.pixels_MHWC.tobytes() + self.gather_Q.tobytes()


def prepare(image: Image.Image, settings: images.ImageSettings, vision: VisionConfig) -> Tiles:
    """An RGB picture as normalised encoded images, cut as the image plan says.

    The pixels equal those of transformers' image processors (PIL backend).
    """
    plan, size = vision.plan, (image.height, image.width)
    pixels = np.zeros((vision.tiles, settings.crop, settings.crop, 3), np.float32)
    whole: dict[View, Image.Image] = {}  # what several views are cut from
    for i, view in enumerate(plan.views(size)):
        uncut = dataclasses.replace(view, box=None)
        if uncut not in whole:
            whole[uncut] = _scaled(image, uncut, settings)
        pixels[i] = images.to_pixels(_cut(whole[uncut], view.box), settings)
    return Tiles(pixels, plan.gather(size), vision.tiles * vision.P, plan.extra, plan.layout(size))


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
                gathers[i, filled:end] = _moved(image, j)
                filled = end
    return pixels, gathers if tiled else None


def _moved(image: Tiles, images_before: int) -> np.ndarray:
    """Its gather table behind so many other pictures of the row."""
    table = image.gather_Q
    return np.where(table >= image.extra, table + images_before * image.features, table)
