"""Where image tokens stand in pictures of any size, and the three-axis rotary positions that follow from it.

A row's pictures are named by their grids, the rows and columns of image tokens of each. Everything here is integer
arithmetic on them: grids are data, so that pictures of all sizes run in one compiled program.
"""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
from jax import Array


class Located(NamedTuple):
    """Of places [B, X] in the sequence of a row's image tokens: the picture, its row and its column.

    picture_BX is the number of pictures behind the last image token; is_last_BX: the place is its picture's last.
    """

    picture_BX: Array
    row_BX: Array
    column_BX: Array
    is_last_BX: Array


def locate(place_BX: Array, grid_BI2: Array) -> Located:
    """Where each image token of a row is.

    Args:
      place_BX: int, 0 for a row's first image token.
      grid_BI2: int, rows and columns of image tokens of each picture of the row, 0 for no picture.
    """
    count_BI = grid_BI2[..., 0] * grid_BI2[..., 1]
    end_BI = jnp.cumsum(count_BI, axis=1)
    picture_BX = (place_BX[:, :, None] >= end_BI[:, None, :]).sum(axis=2)
    known_BX = jnp.minimum(picture_BX, grid_BI2.shape[1] - 1)
    end_BX = jnp.take_along_axis(end_BI, known_BX, axis=1)
    inside_BX = place_BX - (end_BX - jnp.take_along_axis(count_BI, known_BX, axis=1))
    width_BX = jnp.maximum(jnp.take_along_axis(grid_BI2[..., 1], known_BX, axis=1), 1)
    return Located(picture_BX, inside_BX // width_BX, inside_BX % width_BX, place_BX + 1 == end_BX)


@flax.struct.dataclass
class Places:
    """Three-axis rotary positions of the tokens of one forward.

    turn_BT3: position along time, height and width, counted from the row's first token here.
    shift_BT: what a token adds to the difference between rotary positions and token indices of what follows. All its
      tokens together stand in the way of a picture of h x w tokens for max(h, w) positions, not for h * w.
    """

    turn_BT3: Array
    shift_BT: Array


def places(is_image_BT: Array, grid_BI2: Array) -> Places:
    """Positions of tokens that come one by one, but for a picture's, which stand at their row and column.

    Source: transformers@modeling_qwen2_5_vl.py (get_rope_index), for pictures.

    Args:
      is_image_BT: which tokens are image tokens.
      grid_BI2: as in `locate`.
    """
    at = locate(jnp.maximum(jnp.cumsum(is_image_BT, axis=1) - 1, 0), grid_BI2)
    known_BT = jnp.minimum(at.picture_BX, grid_BI2.shape[1] - 1)
    longest_BT = jnp.take_along_axis(grid_BI2.max(axis=2), known_BT, axis=1)
    step_BT = jnp.where(is_image_BT, jnp.where(at.is_last_BX, longest_BT, 0), 1)
    start_BT = jnp.cumsum(step_BT, axis=1) - step_BT
    inside_BT3 = jnp.stack([jnp.zeros_like(at.row_BX), at.row_BX, at.column_BX], axis=-1)
    turn_BT3 = start_BT[:, :, None] + jnp.where(is_image_BT[:, :, None], inside_BT3, 0)
    return Places(turn_BT3.astype(jnp.int32), (step_BT - 1).astype(jnp.int32))
