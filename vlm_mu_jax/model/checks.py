"""Checks of what is handed to `forward` and `generate`: a wrong batch is one line that names the argument.

Ranks, shapes and dtypes are checked always, also while a program is traced, and cost nothing when it runs. Values
(lengths, image placeholders) are checked where they are known: outside `jax.jit`, in arrays that this process holds.
"""

from typing import TYPE_CHECKING, Any

import chex
import jax
import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.image_plans.image_plan import Blend

if TYPE_CHECKING:
    from vlm_mu_jax.model.vlm import Batch


def check_batch(batch: "Batch", cfg: ModelConfig, name: str = "batch") -> None:
    """Compares a batch with its declaration and with the model.

    Args:
      name: of the argument, for messages.

    Raises:
      InputError: a wrong rank, shape or dtype, lengths beyond T, tokens that the model does not have, or image
        placeholders without image tokens.
    """
    _check_rows(batch, name)
    _check_images(batch, cfg, name)
    tokens_BT, lengths_B = _known(batch.tokens_BT), _known(batch.lengths_B)
    if lengths_B is not None and lengths_B.size:
        T = batch.tokens_BT.shape[1]
        if lengths_B.min() < 0 or lengths_B.max() > T:
            raise InputError(f"{name}.lengths_B holds {_outside(lengths_B, T)}; rows of {name}.tokens_BT have 0..{T}")
    if tokens_BT is not None and batch.embedded_BTD is None:
        _check_vocabulary(tokens_BT, cfg, name)
        if cfg.image_token_id is not None:
            _check_placeholders(tokens_BT, batch, cfg, name)


def check_cut(prefix: "Batch", batch: "Batch", cfg: ModelConfig) -> None:
    """Compares the beginnings of prompts with what follows them, as `generate` takes them.

    Raises:
      InputError: a beginning ends inside an image, whose tokens read each other in both directions in this model.
    """
    known = [_known(array) for array in (prefix.tokens_BT, prefix.lengths_B, batch.tokens_BT)]
    if cfg.text.image_run is None or any(array is None for array in known):
        return
    ends, lengths, starts = known
    last = np.repeat(ends[np.arange(len(ends)), lengths - 1], len(starts) // len(ends))
    if ((last == cfg.image_token_id) & (starts[:, 0] == cfg.image_token_id)).any():
        raise InputError("prefix ends inside an image, whose tokens read each other both ways; cut behind it")


def check_seeds(seeds_B: Any, rows: int) -> None:
    """Seeds of `generate`: one whole number per row."""
    if seeds_B is not None:
        _check("seeds_B", seeds_B, (rows,), "[B]", int)


def _check_rows(batch: "Batch", name: str) -> None:
    _check(f"{name}.tokens_BT", batch.tokens_BT, (None, None), "[B, T]", int)
    _check(f"{name}.lengths_B", batch.lengths_B, batch.tokens_BT.shape[:1], "[B], B as in tokens_BT", int)


def _check_images(batch: "Batch", cfg: ModelConfig, name: str) -> None:
    B, T = batch.tokens_BT.shape
    D = cfg.text.D
    pixels, states = batch.pixels_BMHWC, batch.vision_BMPE
    if cfg.vision is None and (pixels is not None or states is not None):
        given = "pixels_BMHWC" if pixels is not None else "vision_BMPE"
        raise InputError(f"{name}.{given} is given, but the model has no vision tower")
    if pixels is not None:
        side = cfg.vision.image_size
        what = f"[B, M, {side}, {side}, 3], B as in tokens_BT and {side} the tower's image size"
        _check(f"{name}.pixels_BMHWC", pixels, (B, None, side, side, 3), what, float)
    if states is not None:
        P, E = cfg.vision.tower.P, cfg.vision.tower.E
        _check(f"{name}.vision_BMPE", states, (B, None, P, E), f"[B, M, {P}, {E}], B as in tokens_BT", float)
    if batch.features_BQD is not None:
        wide = D * (1 + cfg.text.deep)
        _check(f"{name}.features_BQD", batch.features_BQD, (B, None, wide), f"[B, Q, {wide}], B as in tokens_BT", float)
    if isinstance(batch.gather_BQ, Blend):
        what = "[B, Q, K], B as in tokens_BT"
        _check(f"{name}.gather_BQ.index_QK", batch.gather_BQ.index_QK, (B, None, None), what, int)
        _check(f"{name}.gather_BQ.weight_QK", batch.gather_BQ.weight_QK, batch.gather_BQ.index_QK.shape, what, float)
    elif batch.gather_BQ is not None:
        _check(f"{name}.gather_BQ", batch.gather_BQ, (B, None), "[B, Q], B as in tokens_BT", int)
    if batch.grid_BI2 is not None:
        _check(f"{name}.grid_BI2", batch.grid_BI2, (B, None, 2), "[B, I, 2], B as in tokens_BT", int)
    elif cfg.text.rope_axes and any(x is not None for x in (pixels, states, batch.features_BQD)):
        raise InputError(f"{name}.grid_BI2 is None; this model needs the rows and columns of its images' tokens")
    if batch.embedded_BTD is not None:
        what = f"[B, T, {D}], B and T as in tokens_BT"
        _check(f"{name}.embedded_BTD", batch.embedded_BTD, (B, T, D), what, float)


def _check(name: str, array: Any, shape: tuple[int | None, ...], what: str, kind: type) -> None:
    try:
        chex.assert_shape(array, shape)
    except AssertionError as error:
        raise InputError(f"{name} has shape {list(np.shape(array))}; it must be {what}") from error
    try:
        chex.assert_type(array, kind)
    except AssertionError as error:
        wanted = {int: "integers", float: "floating-point numbers"}[kind]
        raise InputError(f"{name} has dtype {array.dtype}; it must hold {wanted}") from error


def _check_vocabulary(tokens_BT: np.ndarray, cfg: ModelConfig, name: str) -> None:
    """A token without an embedding would silently get another's. The placeholder may stand just behind the others."""
    strange_BT = (tokens_BT < 0) | ((tokens_BT >= cfg.text.V) & (tokens_BT != cfg.image_token_id))
    if strange_BT.any():
        token = tokens_BT[strange_BT][0]
        raise InputError(
            f"{name}.tokens_BT holds {token}, and the model has {cfg.text.V} tokens; use its own tokenizer"
        )


def _check_placeholders(tokens_BT: np.ndarray, batch: "Batch", cfg: ModelConfig, name: str) -> None:
    """More placeholders than image tokens would silently repeat the last of these."""
    stand_B = (tokens_BT == cfg.image_token_id).sum(axis=1)
    have = _image_tokens(batch, cfg)
    row = int(np.argmax(stand_B)) if stand_B.size else 0
    if stand_B.size and stand_B[row] > have:
        given = f"its images give {have}" if have else "pixels_BMHWC, vision_BMPE and features_BQD are all None"
        raise InputError(f"{name}.tokens_BT: row {row} has {stand_B[row]} image placeholders, but {given}")


def _image_tokens(batch: "Batch", cfg: ModelConfig) -> int:
    """The most image tokens that a row of the batch can have, by its shapes."""
    if batch.features_BQD is not None:
        return batch.features_BQD.shape[1]
    if batch.pixels_BMHWC is None and batch.vision_BMPE is None:
        return 0
    if batch.gather_BQ is not None:
        return jax.tree.leaves(batch.gather_BQ)[0].shape[1]
    images = batch.vision_BMPE if batch.pixels_BMHWC is None else batch.pixels_BMHWC
    return cfg.vision.tokens(images.shape[1])


def _known(array: Any) -> np.ndarray | None:
    """The values, or None while a program is traced and where another process holds them."""
    if isinstance(array, jax.core.Tracer) or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return None
    return np.asarray(jax.device_get(array))


def _outside(lengths_B: np.ndarray, T: int) -> int:
    return int(lengths_B.max() if lengths_B.max() > T else lengths_B.min())
