"""Weight-only quantisation: what storing a decoder's weights in 8 or 4 bits makes of them.

    quantized = quantize(params, Scheme.parse("int4"))  # the weights that a server of 4-bit weights computes with

The linear maps of the decoder's blocks are quantised. Embeddings, head, norms, biases, vision tower and connector stay
as they are. A scale belongs to `group` consecutive inputs of one output channel, or to the whole channel. With w the
weights of a group and a = max |w|, all in float32:

    int8   code = round(127 w / a), weight = code a / 127      as the vector-wise scheme of LLM.int8 (arXiv 2208.07339)
    int4   code = round(7 w / a), weight = code a / 7          symmetric, 15 of the 16 codes
    nf4    code = the nearest of 16 quantiles of a normal distribution to w / a, weight = quantile a
           (QLoRA, arXiv 2305.14314, appendix E)

Rounding is to the nearest code, without calibration data. nf4's scales are not quantised a second time.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.lora import over_linears
from vlm_mu_jax.model.params import Params

# kind -> (bits, inputs that share a scale unless told otherwise; None is the whole channel)
KINDS: dict[str, tuple[int, int | None]] = {"int8": (8, None), "int4": (4, 128), "nf4": (4, 64)}
_CHANNEL = "channel"
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How weights are stored.

    Attributes:
      kind: one of `KINDS`.
      group: how many inputs of an output channel share a scale. None: all of them.
    """

    kind: str
    group: int | None

    @classmethod
    def parse(cls, text: str) -> "Scheme":
        """Reads "int8", "int4:32" (groups of 32) or "nf4:channel".

        Raises:
          InputError: it is none of these.
        """
        kind, _, group = text.partition(":")
        if kind not in KINDS or not (group in ("", _CHANNEL) or (group.isdecimal() and int(group) > 0)):
            raise InputError(
                f"--quantize={text}: use one of {', '.join(KINDS)}, with :channel or :N for scales of N inputs, "
                "such as int4:32"
            )
        return cls(kind, {"": KINDS[kind][1], _CHANNEL: None}[group] if group in ("", _CHANNEL) else int(group))

    @property
    def bits(self) -> float:
        """Bits a weight takes, with its share of a float32 scale where scales are per group."""
        return KINDS[self.kind][0] + (32 / self.group if self.group else 0)

    def __str__(self) -> str:
        return f"{self.kind}:{self.group or _CHANNEL}"


class Quantized(NamedTuple):
    """A stack of linear maps in few bits.

    codes_LGIO: int8, int4, or uint4 numbers of quantiles, [L, groups, inputs of a group, O]. scale_LG1O: float32.
    """

    codes_LGIO: Array
    scale_LG1O: Array


def quantize(params: Params, scheme: Scheme) -> Params:
    """The parameters after a round trip through the scheme, in their own dtype.

    The weights stay in floating point: this measures what quantised weights answer, and saves no memory, as
    `stored.hold` does. Every leaf that is left alone is the same array as before.
    """
    return over_linears(params, lambda w, inputs: _round_trip(w, scheme, inputs))


@functools.partial(jax.jit, static_argnames=("scheme", "inputs"))
def _round_trip(w: Array, scheme: Scheme, inputs: int) -> Array:
    """Layer by layer, so that one layer at a time is in float32."""

    def one(w_layer: Array) -> Array:
        return decoded(encoded(w_layer[None], scheme, inputs), scheme, w_layer[None])[0]

    return jax.lax.map(one, w)


def encoded(w: Array, scheme: Scheme, inputs: int = 1) -> Quantized:
    """A stack of linear maps [L, inputs..., outputs...] in the scheme.

    Args:
      inputs: how many axes behind the first are inputs.
    """
    w_LIO = _as_matrices(w, inputs).astype(jnp.float32)
    layers, width, outputs = w_LIO.shape
    size = min(scheme.group or width, width)
    w_LIO = jnp.pad(w_LIO, ((0, 0), (0, -width % size), (0, 0)))  # the last group may be smaller
    w_LGIO = w_LIO.reshape(layers, -1, size, outputs)
    most = jnp.max(jnp.abs(w_LGIO), axis=2, keepdims=True)
    most = jnp.where(most == 0, 1.0, most)
    if scheme.kind == "nf4":
        middles = (NF4[1:] + NF4[:-1]) / 2
        return Quantized(jnp.searchsorted(middles, w_LGIO / most).astype(jnp.uint4), most)
    bound = 2 ** (KINDS[scheme.kind][0] - 1) - 1
    codes = jnp.round(w_LGIO / most * bound).astype(jnp.dtype(scheme.kind))
    return Quantized(codes, most / bound)


def decoded(stored: Quantized, scheme: Scheme, like: Array) -> Array:
    """The linear maps again, with the shape and dtype of `like`."""
    codes = stored.codes_LGIO.astype(jnp.int32)
    values = jnp.asarray(NF4)[codes] if scheme.kind == "nf4" else codes.astype(jnp.float32)
    w_LGIO = values * stored.scale_LG1O
    layers, _, _, outputs = w_LGIO.shape
    w_LIO = w_LGIO.reshape(layers, -1, outputs)[:, : like[0].size // outputs]
    return w_LIO.reshape(like.shape).astype(like.dtype)


def _as_matrices(w: Array, inputs: int) -> Array:
    """[L, inputs..., outputs...] -> [L, I, O]."""
    return w.reshape(w.shape[0], math.prod(w.shape[1 : 1 + inputs]), -1)
