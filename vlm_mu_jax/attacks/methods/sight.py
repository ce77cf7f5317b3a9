"""What a model sees of a picture, as a function of its grey levels, and the way back for a gradient.

A model that reads one image per picture, or the patches of it, is shown the picture as its image processor leaves it.
Where an image plan cuts a picture into several encoded images, each is scaled from the whole picture, and scaling is
linear: the matrices here are Pillow's own, read off by scaling unit vectors. Rows are scaled behind columns or columns
behind rows, whichever gives what Pillow gives, and both times the values become whole grey levels. Where a view is
scaled twice, only the second scaling is followed so closely.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from vlm_mu_jax.data import images, tiling
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor, bucket
from vlm_mu_jax.data.tiling import Stacked
from vlm_mu_jax.model.image_plans.image_plan import ImagePlan, Size, Table, View
from vlm_mu_jax.model.image_plans.patches import Patches

Scales = tuple[Array | np.ndarray, Array | np.ndarray, Array | np.ndarray]  # rows_MSH, columns_MSW, rows_first_M


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """One picture as a model sees it.

    Attributes:
      base_HWC: the picture, int in 0..255.
      rows_MSH, columns_MSW: of each encoded image, how its rows and columns are scaled from those of the picture. None
        where the picture is the one encoded image.
      rows_first_M: whether Pillow scales rows before columns.
      gather_1Q: which feature each image token is, see `model.vlm.Batch`.
      scaling: (rescale, mean, std) of the image processor.
      grid, plan: of a picture that is read as patches, rows and columns of its image tokens, and the model's plan.
    """

    base_HWC: np.ndarray
    rows_MSH: np.ndarray | None
    columns_MSW: np.ndarray | None
    rows_first_M: np.ndarray | None
    gather_1Q: Table | None
    scaling: tuple[float, tuple[float, ...], tuple[float, ...]]
    grid: Size | None = None
    plan: Patches | None = None

    def shown(self, x_HWC: Array) -> Stacked:
        """A batch's row of the picture with other values."""
        grid_1I2 = None if self.grid is None else np.array([[self.grid]], np.int32)
        return Stacked(_pixels(x_HWC, self._scales, self._patches, scaling=self.scaling), self.gather_1Q, grid_1I2)

    def signs(self, x_HWC: Array, slope_1MSTC: Array) -> Array:
        """The gradient in the pixels of these values -> its sign in the values, int8 [H, W, 3]."""
        return _signs(x_HWC, slope_1MSTC, self._scales, self._patches, scaling=self.scaling)

    @property
    def width(self) -> int:
        """Room for image tokens, rounded up, so that few programs are compiled; 0 where it is always the same."""
        if self.grid is not None:
            return bucket(math.prod(self.grid))
        return 0 if self.gather_1Q is None else jax.tree.leaves(self.gather_1Q)[0].shape[1]

    @property
    def images(self) -> int | None:
        """Encoded images of the picture, where their number is its own."""
        return None if self.grid is None else math.prod(self.grid) * self.plan.merge**2

    @property
    def _patches(self) -> tuple[int, int, int] | None:
        """(pixels along a patch, patches along a block, room for patches)."""
        plan = self.plan
        return None if plan is None else (plan.patch_size, plan.merge, self.width * plan.merge**2)

    @property
    def _scales(self) -> Scales | None:
        return None if self.rows_MSH is None else (self.rows_MSH, self.columns_MSW, self.rows_first_M)


def of_picture(picture: np.ndarray | Image.Image, processor: Processor, plan: ImagePlan | None = None) -> Sight:
    """The sight of a picture.

    Args:
      picture: what the image processor makes of it, or the RGB picture itself for a model that cuts it.
      plan: how it is cut; None is that of a picture alone in its prompt.
    """
    settings, vision = processor.settings, processor.cfg.vision
    plan = plan or vision.plan
    scaling = (settings.rescale, settings.mean, settings.std)
    if not plan.varies:
        return Sight(seen(picture, settings), None, None, None, None, scaling)
    if isinstance(plan, Patches):
        cut = tiling.prepare(picture, settings, vision, plan)
        base_HWC = seen(tiling.joined(cut.pixels_MHWC, cut.grid), settings)
        return Sight(base_HWC, None, None, None, None, scaling, cut.grid, plan)
    size = (picture.height, picture.width)
    views = [_matrices(view, size, settings) for view in plan.views(size)]
    tiles = tiling.prepare(picture, settings, vision, plan)
    shown = tiling.stack([[tiles]], 1, tiles, bucket(len(tiles.gather_Q)))
    rows, columns = (_stacked(matrices, shown.pixels_BMHWC.shape[1]) for matrices in zip(*views, strict=True))
    wanted, x_HWC = shown.pixels_BMHWC[0], np.asarray(picture, np.float32)
    off_2M = [
        np.abs(_pixels(x_HWC, (rows, columns, first_M), None, scaling=scaling)[0] - wanted).sum((1, 2, 3))
        for first_M in (np.zeros(len(rows), bool), np.ones(len(rows), bool))
    ]
    return Sight(np.asarray(picture, np.int64), rows, columns, off_2M[1] < off_2M[0], shown.gather_BQ, scaling)


def seen(pixels_HWC: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """What the model sees of an image, as a picture int [H, W, 3] in 0..255: `Processor.pixels` not normalised."""
    values = (pixels_HWC.astype(np.float64) * np.array(settings.std) + np.array(settings.mean)) / settings.rescale
    return np.clip(np.rint(values), 0, 255).astype(np.int64)


@functools.partial(jax.jit, static_argnames=("patches", "scaling"))
def _pixels(x_HWC: Array, scales: Scales | None, patches: tuple[int, int, int] | None, *, scaling: tuple) -> Array:
    rescale, mean, std = scaling
    if patches is not None:
        size, merge, room = patches
        cut = tiling.patches(x_HWC, size, merge)
        x_MSTC = jnp.pad(cut, ((0, room - len(cut)), (0, 0), (0, 0), (0, 0)))
    elif scales is None:
        x_MSTC = x_HWC[None]
    else:
        rows_MSH, columns_MSW, rows_first_M = scales
        x_MHTC = _eight_bits(jnp.einsum("hwc,mtw->mhtc", x_HWC, columns_MSW))
        x_MSWC = _eight_bits(jnp.einsum("msh,hwc->mswc", rows_MSH, x_HWC))
        columns_first = jnp.einsum("msh,mhtc->mstc", rows_MSH, x_MHTC)
        rows_first = jnp.einsum("mswc,mtw->mstc", x_MSWC, columns_MSW)
        x_MSTC = _eight_bits(jnp.where(rows_first_M[:, None, None, None], rows_first, columns_first))
    return ((x_MSTC * rescale - _channels(mean)) / _channels(std))[None]


@functools.partial(jax.jit, static_argnames=("patches", "scaling"))
def _signs(
    x_HWC: Array, slope_1MSTC: Array, scales: Scales | None, patches: tuple[int, int, int] | None, *, scaling: tuple
) -> Array:
    _, back = jax.vjp(lambda x_HWC: _pixels(x_HWC, scales, patches, scaling=scaling), x_HWC)
    return jnp.sign(back(slope_1MSTC)[0]).astype(jnp.int8)


def _eight_bits(x: Array) -> Array:
    """Whole grey levels in 0..255, as Pillow keeps them; for the gradient they are not rounded."""
    x = jnp.clip(x, 0, 255)
    return x + jax.lax.stop_gradient(jnp.rint(x) - x)


def _channels(values: tuple[float, ...]) -> Array:
    return jnp.array(values, jnp.float32)[None, None, None]


def _matrices(view: View, size: Size, settings: ImageSettings) -> tuple[np.ndarray, np.ndarray]:
    """How a view's rows [S, H] and columns [S, W] are made of the picture's."""
    return _processed(*(_cut(view, axis, size[axis], settings) for axis in (0, 1)), settings)


def _cut(view: View, axis: int, length: int, settings: ImageSettings) -> np.ndarray:
    """The view's own steps along one axis of a picture so long."""
    matrix = np.eye(length, dtype=np.float32)
    for scale in tiling.scales(view, settings):
        matrix = _resampled(matrix, scale[axis], settings)
    if view.canvas is not None:
        matrix = _centred(matrix, view.canvas[axis])
    return matrix if view.box is None else matrix[view.box[axis] : view.box[axis] + view.box[axis + 2]]


def _processed(rows: np.ndarray, columns: np.ndarray, settings: ImageSettings) -> tuple[np.ndarray, np.ndarray]:
    """The image processor's own steps behind a view: `images.to_pixels`."""
    if settings.resize:
        width, height = images.resized(len(columns), len(rows), settings)
        rows, columns = _resampled(rows, height, settings), _resampled(columns, width, settings)
    if settings.centre:
        rows, columns = _centred(rows, settings.crop), _centred(columns, settings.crop)
    return rows, columns


def _resampled(matrix: np.ndarray, length: int, settings: ImageSettings) -> np.ndarray:
    """[n, X] -> [length, X], as Pillow scales."""
    if length == len(matrix):
        return matrix
    unit = Image.fromarray(np.eye(len(matrix), dtype=np.float32))
    return np.asarray(unit.resize((len(matrix), length), settings.resample)) @ matrix


def _centred(matrix: np.ndarray, length: int) -> np.ndarray:
    """The middle of [n, X], or [n, X] in the middle of rows of zeros: [length, X]."""
    start = abs(length - len(matrix)) // 2
    if length <= len(matrix):
        return matrix[start : start + length]
    return np.pad(matrix, ((start, length - len(matrix) - start), (0, 0)))


def _stacked(matrices: tuple[np.ndarray, ...], M: int) -> np.ndarray:
    """[M, S, X] with zeros for the encoded images that this picture does not have."""
    stacked = np.zeros((M, *matrices[0].shape), np.float32)
    stacked[: len(matrices)] = matrices
    return stacked
