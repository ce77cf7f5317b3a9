"""Vision transformer over the patches of pictures of any size, up to the states that a merger reads.

All pictures of a row are one sequence of patches. Patches come in blocks of merge x merge, each of which becomes one
image token. Rows, columns and windows follow from the pictures' grids (`model.grids`), so a program depends on the
number of patches alone, and what is beyond the last picture is read by nobody.

Layers with windows see 3 * W keys for every query, not all: patches are put in the order of their windows, of at most W
patches each, and a block of W of them reads itself and its two neighbours.

Sources: transformers@modeling_qwen2_vl.py, modeling_qwen2_5_vl.py, modeling_qwen3_vl.py and vision_utils.py.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.model.attention import NEGATIVE
from vlm_mu_jax.model.grids import locate
from vlm_mu_jax.model.layers import ACTIVATIONS, Angles, activation, layer_norm, linear, rms_norm, rope
from vlm_mu_jax.model.params import Params, ParamSpec, Specs
from vlm_mu_jax.parallel.activations import spread_rows

_QUERIES = 512  # at a time where all keys are read: only their scores exist at once
_EPS = 1e-6  # of the norms; no config has it


class _Where(NamedTuple):
    """Of every patch: row and column in its picture, the picture's number, rows and columns of the whole picture."""

    row_BM: Array
    column_BM: Array
    picture_BM: Array
    size_BM2: Array


class _Reads(NamedTuple):
    """A patch reads those of its own picture, or of its own window (None: there are no windows)."""

    picture_BM: Array
    window_BM: Array | None


@dataclasses.dataclass(frozen=True)
class PatchVit:
    """See `tower.Tower`; an "encoded image" is one patch here. D, L, N, F: width, layers, heads, feed-forward width.

    merge: patches along a side of what becomes one image token. frames: times that a patch's pixels are repeated, as a
      video's frames would follow each other.
    rms, gated: norms without mean and bias; an MLP with a gate.
    positions: learned positions along a side of a square that is interpolated to each picture's grid; None for none.
    window: image tokens along a window's side in the layers that are not `whole`; None for no windows.
    deep: layers whose output is handed on beside the last one's, in this order.
    """

    patch_size: int
    D: int
    L: int
    N: int
    F: int
    merge: int = 2
    frames: int = 2
    activation: str = "quick_gelu"
    rms: bool = False
    gated: bool = False
    patch_bias: bool = False
    positions: int | None = None
    window: int | None = None
    whole: tuple[int, ...] = ()
    deep: tuple[int, ...] = ()
    rope_theta: float = 10000.0

    @property
    def image_size(self) -> int:
        return self.patch_size

    @property
    def P(self) -> int:
        return 1

    @property
    def E(self) -> int:
        return self.D * (1 + len(self.deep))

    @property
    def _block(self) -> int:
        """W, the most patches of a window."""
        return (self.window * self.merge) ** 2

    def specs(self) -> Specs:
        D, p = self.D, self.patch_size
        found: Specs = {
            "patch_CTHWD": ParamSpec((3, self.frames, p, p, D), (None, None, None, None, "embed")),
            "layers": self._layer_specs(),
        }
        if self.patch_bias:
            found["patch_bias_D"] = ParamSpec((D,), ("embed",), "zeros")
        if self.positions:
            found["position_QD"] = ParamSpec((self.positions**2, D), (None, "embed"))
        return found

    def _layer_specs(self) -> Specs:
        D, L, N, F = self.D, self.L, self.N, self.F

        def stack(shape: tuple[int, ...], axes: tuple[str | None, ...], init: str | float = 0.02) -> ParamSpec:
            return ParamSpec((L, *shape), ("layers", *axes), init)

        norms = {f"norm{i}_scale_LD": stack((D,), ("embed",), "ones") for i in (1, 2)}
        if not self.rms:
            norms |= {f"norm{i}_bias_LD": stack((D,), ("embed",), "zeros") for i in (1, 2)}
        up = ("gate", "up") if self.gated else ("up",)
        mlp = {f"w{name}_LDF": stack((D, F), ("embed", "mlp")) for name in up}
        mlp |= {f"b{name}_LF": stack((F,), ("mlp",), "zeros") for name in up}
        return (
            norms
            | mlp
            | {
                "wqkv_LDCNH": stack((D, 3, N, D // N), ("embed", None, "heads", "head")),
                "bqkv_LCNH": stack((3, N, D // N), (None, "heads", "head"), "zeros"),
                "wo_LNHD": stack((N, D // N, D), ("heads", "head", "embed")),
                "bo_LD": stack((D,), ("embed",), "zeros"),
                "wdown_LFD": stack((F, D), ("mlp", "embed")),
                "bdown_LD": stack((D,), ("embed",), "zeros"),
            }
        )

    def encode(self, params: Params, pixels_BMHWC: Array, grid_BI2: Array) -> Array:
        """Normalised patches [B, M, p, p, 3] -> states [B, M, 1, E].

        Args:
          pixels_BMHWC: patches of a row's pictures in the order of `grids.locate`, merge x merge together; M is a
            multiple of merge * merge.
          grid_BI2: rows and columns of image tokens of each picture.
        """
        M = pixels_BMHWC.shape[1]
        room = -M % self._block if self.window else 0
        pixels_BMHWC = jnp.pad(pixels_BMHWC, ((0, 0), (0, room), (0, 0), (0, 0), (0, 0)))
        where = self._where(grid_BI2, M + room)
        x_BMD = self._patches(params, pixels_BMHWC)
        if self.positions:
            x_BMD = x_BMD + self._position(params["position_QD"], where).astype(x_BMD.dtype)
        angles = self._angles(where)
        reads = _Reads(where.picture_BM, None)
        if self.window:
            window_BM = self._window(where)
            order_BM = jnp.argsort(window_BM, axis=1, stable=True)
            inverse_BM = jnp.put_along_axis(order_BM, order_BM, jnp.arange(M + room)[None], axis=1, inplace=False)
            x_BMD, angles, reads = jax.tree.map(
                lambda x: _taken(x, order_BM), (x_BMD, angles, _Reads(where.picture_BM, window_BM))
            )
        states_BME = self._layers(params["layers"], x_BMD, angles, reads)
        if self.window:
            states_BME = _taken(states_BME, inverse_BM)
        return states_BME[:, :M, None]

    def _patches(self, params: Params, pixels_BMHWC: Array) -> Array:
        kernel = params["patch_CTHWD"]
        pixels_BMCHW = pixels_BMHWC.transpose(0, 1, 4, 2, 3).astype(kernel.dtype)
        frames_BMCTHW = jnp.repeat(pixels_BMCHW[:, :, :, None], self.frames, axis=3)
        flat_BMK = frames_BMCTHW.reshape(*pixels_BMHWC.shape[:2], -1)
        return linear(flat_BMK, kernel.reshape(-1, self.D), params.get("patch_bias_D"))

    def _where(self, grid_BI2: Array, M: int) -> _Where:
        m = self.merge
        patch_M = jnp.arange(M, dtype=jnp.int32)
        token_BM = jnp.broadcast_to(patch_M[None] // m**2, (grid_BI2.shape[0], M))
        at, inside_1M = locate(token_BM, grid_BI2), patch_M[None] % m**2
        known_BM = jnp.minimum(at.picture_BX, grid_BI2.shape[1] - 1)
        size_BM2 = jnp.take_along_axis(grid_BI2 * m, known_BM[:, :, None], axis=1)
        row_BM, column_BM = at.row_BX * m + inside_1M // m, at.column_BX * m + inside_1M % m
        return _Where(row_BM, column_BM, at.picture_BX, size_BM2)

    def _window(self, where: _Where) -> Array:
        """A number for every window of a row, ascending with pictures; what is beyond the last picture is one window
        of its own."""
        side = self.window * self.merge
        across_BM = -(-where.size_BM2[:, :, 1] // side)
        M = where.row_BM.shape[1]  # more than a picture has windows
        inside_BM = where.row_BM // side * across_BM + where.column_BM // side
        return where.picture_BM * M + jnp.minimum(inside_BM, M - 1)

    def _angles(self, where: _Where) -> Angles:
        """Half of the frequencies turn by the row, half by the column. [B, M, 1, H / 2]"""
        half = self.D // self.N // 2
        frequencies_H = self.rope_theta ** -(jnp.arange(0, half, 2, dtype=jnp.float32) / half)
        at = (where.row_BM, where.column_BM)
        turns = [x_BM[:, :, None].astype(jnp.float32) * frequencies_H[None, None] for x_BM in at]
        angles = jnp.concatenate(turns, axis=-1)[:, :, None]
        return jnp.cos(angles), jnp.sin(angles)

    def _position(self, table_QD: Array, where: _Where) -> Array:
        """Learned positions, bilinear between the four nearest; corners of picture and table meet."""
        side, found = self.positions, 0.0

        def taps(index_BM: Array, size_BM: Array) -> list[tuple[Array, Array]]:
            at = index_BM.astype(jnp.float32) * (side - 1) / jnp.maximum(size_BM - 1, 1).astype(jnp.float32)
            low = jnp.floor(at)
            near = low.astype(jnp.int32)
            return [(jnp.clip(near, 0, side - 1), 1 - (at - low)), (jnp.clip(near + 1, 0, side - 1), at - low)]

        for row_BM, down_BM in taps(where.row_BM, where.size_BM2[:, :, 0]):
            for column_BM, across_BM in taps(where.column_BM, where.size_BM2[:, :, 1]):
                found += table_QD[row_BM * side + column_BM] * (down_BM * across_BM)[:, :, None]
        return found

    def _layers(self, layers: Params, x_BMD: Array, angles: Angles, reads: _Reads) -> Array:
        """All blocks -> outputs of the `deep` ones behind that of the last one, [B, M, E]."""
        whole_L = np.isin(np.arange(self.L), self.whole) if self.window else np.ones(self.L, bool)
        edges, kept = sorted({0, self.L, *(layer + 1 for layer in self.deep)}), {}
        for first, end in zip(edges, edges[1:], strict=False):
            some = jax.tree.map(lambda w, first=first, end=end: w[first:end], (layers, jnp.asarray(whole_L)))
            x_BMD, _ = jax.lax.scan(lambda x, xs: (self._block_of(x, *xs, angles, reads), None), x_BMD, some)
            kept[end - 1] = x_BMD
        return jnp.concatenate([x_BMD, *(kept[layer] for layer in self.deep)], axis=-1)

    def _block_of(self, x_BMD: Array, p: Params, is_whole: Array, angles: Angles, reads: _Reads) -> Array:
        x_BMD = spread_rows(x_BMD)
        qkv_BMCNH = linear(self._norm(x_BMD, p, 1), p["wqkv_LDCNH"], p["bqkv_LCNH"])
        q, k, v = (qkv_BMCNH[:, :, i] for i in range(3))
        q, k = rope(q, angles) * q.shape[-1] ** -0.5, rope(k, angles)
        if self.window:
            near = functools.partial(_near, block=self._block, window_BM=reads.window_BM)
            mixed = jax.lax.cond(is_whole, functools.partial(_whole, picture_BM=reads.picture_BM), near, q, k, v)
        else:
            mixed = _whole(q, k, v, picture_BM=reads.picture_BM)
        x_BMD = x_BMD + linear(mixed.reshape(x_BMD.shape), p["wo_LNHD"].reshape(self.D, self.D), p["bo_LD"])
        h = self._norm(x_BMD, p, 2)
        up = linear(h, p["wup_LDF"], p["bup_LF"])
        act = activation(self.activation)
        up = act(linear(h, p["wgate_LDF"], p["bgate_LF"])) * up if self.gated else act(up)
        return x_BMD + linear(up, p["wdown_LFD"], p["bdown_LD"])

    def _norm(self, x_BMD: Array, p: Params, number: int) -> Array:
        scale = p[f"norm{number}_scale_LD"]
        return rms_norm(x_BMD, scale, _EPS) if self.rms else layer_norm(x_BMD, scale, p[f"norm{number}_bias_LD"], _EPS)

    def flops(self, images: int = 1) -> float:
        """Of one picture of so many patches."""
        block = 4 * self.D**2 + (3 if self.gated else 2) * self.D * self.F
        whole = len(self.whole) if self.window else self.L
        read = whole * images + (self.L - whole) * min(3 * self._block, images) if self.window else whole * images
        linear = self.L * block + 3 * self.frames * self.patch_size**2 * self.D
        return float(images * (2 * linear + 4 * self.D * read))

    def problems(self) -> list[str]:
        found = []
        if self.D % self.N or self.D // self.N % 4:
            found.append(f"vision width {self.D} over {self.N} heads gives heads that are no multiple of 4")
        if self.activation not in ACTIVATIONS:
            found.append(f"vision hidden_act {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.window is not None and not (type(self.window) is int and self.window > 0):
            found.append("vision window_size is smaller than one image token")
        for name, layers in (("fullatt_block_indexes", self.whole), ("deepstack_visual_indexes", self.deep)):
            if any(type(i) is not int or not 0 <= i < self.L for i in layers) or len(set(layers)) < len(layers):
                found.append(f"vision {name} {list(layers)} does not name layers of {self.L}")
        return found


def _taken(x: Array, order_BM: Array) -> Array:
    """Patches of [B, M, ...] in this order."""
    return jnp.take_along_axis(x, order_BM.reshape(*order_BM.shape, *(1,) * (x.ndim - 2)), axis=1)


def _whole(q_BMNH: Array, k_BMNH: Array, v_BMNH: Array, *, picture_BM: Array) -> Array:
    """Every patch reads all of its picture, some queries at a time."""
    B, M = q_BMNH.shape[:2]
    steps = -(-M // _QUERIES)
    size = -(-M // steps)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, steps * size - M), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(B, steps, size, *x.shape[2:]).swapaxes(0, 1)

    def some(xs: tuple[Array, Array]) -> Array:
        q, picture = xs
        return _mixed(q, k_BMNH, v_BMNH, picture[:, :, None] == picture_BM[:, None])

    mixed = jax.lax.map(jax.checkpoint(some), (split(q_BMNH), split(picture_BM)))
    return mixed.swapaxes(0, 1).reshape(B, steps * size, *q_BMNH.shape[2:])[:, :M]


def _near(q_BMNH: Array, k_BMNH: Array, v_BMNH: Array, *, block: int, window_BM: Array) -> Array:
    """Every patch reads its window, which lies in its own block of patches and the two beside it."""
    B, M = q_BMNH.shape[:2]

    def cut(x: Array) -> Array:
        return x.reshape(B, M // block, block, *x.shape[2:])

    def beside(x: Array, fill: int) -> Array:
        x = cut(x)
        edge = jnp.full_like(x[:, :1], fill)
        return jnp.concatenate([jnp.concatenate([edge, x[:, :-1]], 1), x, jnp.concatenate([x[:, 1:], edge], 1)], axis=2)

    q, k, v, own, other = cut(q_BMNH), beside(k_BMNH, 0), beside(v_BMNH, 0), cut(window_BM), beside(window_BM, -1)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (q, k, v, own, other))
    q, k, v, own, other = rows
    return jax.checkpoint(_mixed)(q, k, v, own[:, :, None] == other[:, None]).reshape(q_BMNH.shape)


def _mixed(q_RQNH: Array, k_RSNH: Array, v_RSNH: Array, mask_RQS: Array) -> Array:
    score = jnp.einsum("rqnh,rsnh->rnqs", q_RQNH, k_RSNH, preferred_element_type=jnp.float32)
    weight = jax.nn.softmax(jnp.where(mask_RQS[:, None], score, NEGATIVE), axis=-1).astype(v_RSNH.dtype)
    return jnp.einsum("rnqs,rsnh->rqnh", weight, v_RSNH)
