"""Magnitude pruning: a decoder's smallest weights set to zero, as a deployment that wants sparse weights would.

    sparse = prune(params, 0.2)

Of every output channel of the linear maps that `quantize` rounds, the given share of weights with the least magnitude
becomes zero. Comparing within a channel is Wanda's grouping (arXiv 2306.11695), without its activations.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.lora import over_linears
from vlm_mu_jax.model.params import Params


def prune(params: Params, share: float) -> Params:
    """The parameters with a share of every output channel at zero. What is left alone is the same array as before.

    Raises:
      InputError: `share` is not in 0..1.
    """
    if not 0 <= share < 1:
        raise InputError(f"--pruned={share}: give the share of weights to set to zero, from 0 to below 1")
    return over_linears(params, lambda w, inputs: _pruned(w, share, inputs))


@functools.partial(jax.jit, static_argnames=("share", "inputs"))
def _pruned(w: Array, share: float, inputs: int) -> Array:
    """Layer by layer, so that one layer at a time is sorted."""

    def one(layer: Array) -> Array:
        w_IO = layer.reshape(math.prod(layer.shape[:inputs]), -1)
        size_IO = jnp.abs(w_IO)
        drop = int(share * len(w_IO))
        if not drop:
            return layer
        least_1O = jnp.sort(size_IO, axis=0)[drop - 1][None]
        return jnp.where(size_IO <= least_1O, 0, w_IO).astype(layer.dtype).reshape(layer.shape)

    return jax.lax.map(one, w)
