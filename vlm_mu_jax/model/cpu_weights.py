"""Weights as programs on a CPU read them fastest, where no derivative is taken.

bfloat16: XLA on CPU multiplies by AVX512-BF16 or AMX where the sum stays in float32, there are two rows or more, and no
factor is transposed first. Of any other bfloat16 product it writes the weights out as float32, at every call. A scan
over a bfloat16 stack carries a float32 copy of it, and over the same bits as uint16 none.

float32: a scan over stacked weights copies every layer out of the stack before it reads the layer. For a few rows the
copy takes longer than the product. Layers that are apart are copied once for all tokens.

docs/performance.md says what both gain.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel.placement import memory_of

ROWS = 2  # fewer are no matrix product to XLA
FEW_ROWS = 4  # of more rows, the products outweigh the copies
LARGE = 2**18  # bytes of a layer's map from which on its copy takes noticeable time
ROOM = 1 / 8  # of the machine's memory, which copies may take


@flax.struct.dataclass
class WideMap:
    """A linear map whose products are summed in float32, or a stack of them with a leading axis of layers.

    array: bfloat16 [I..., O...], or the same bits as uint16, which a scan cuts without a conversion.
    inputs: how many axes are I.... turned: array is [O, I]. dtype: of the products.
    """

    array: Array
    inputs: int = flax.struct.field(pytree_node=False, default=1)
    turned: bool = flax.struct.field(pytree_node=False, default=False)
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.bfloat16)

    def product(self, x: Array) -> Array:
        """`x[..., I] @ map[I, O...]`, I all inputs as one axis."""
        w = self.array
        if w.dtype == jnp.uint16:
            w = jax.lax.bitcast_convert_type(w, jnp.bfloat16)
        w = w.reshape(-1, *w.shape[self.inputs :])
        rows = x.reshape(-1, x.shape[-1])
        padded = jnp.pad(rows, ((0, max(ROWS - len(rows), 0)), (0, 0)))
        axes = (((1,), (int(self.turned),)), ((), ()))
        sums = jax.lax.dot_general(padded, w, axes, preferred_element_type=jnp.float32)[: len(rows)]
        return sums.reshape(*x.shape[:-1], *sums.shape[1:]).astype(self.dtype)


@flax.struct.dataclass
class ApartMap:
    """A stack of linear maps as one array per layer. A scan over layers carries none of them and reads one.

    maps: L arrays [I..., O...]. layer: number of the map that products read, given by `stacks.Run.at`.
    inputs: how many axes are I....
    """

    maps: tuple[Array, ...]
    layer: Array | None = None
    inputs: int = flax.struct.field(pytree_node=False, default=1)

    def product(self, x: Array) -> Array:
        """`x[..., I] @ maps[layer][I, O...]`, I all inputs as one axis."""
        return jax.lax.switch(self.layer, [functools.partial(self._product, w) for w in self.maps], x)

    def _product(self, w: Array, x: Array) -> Array:
        return jnp.tensordot(x, w.reshape(-1, *w.shape[self.inputs :]), axes=1)


def for_cpu(params: Params, rows: int | None = None) -> Params:
    """The same weights as programs on one CPU read them fastest; `params` itself on other devices and inside a program.

    The decoder's bfloat16 maps and head become `WideMap` over the same memory. Where a step reads no more than FEW_ROWS
    rows, its large float32 maps become `ApartMap`, which are copies; not where these take more than ROOM.

    Args:
      rows: of a step of decoding; None = many.
    """
    table = params["decoder"]["embed_VD"]
    if not _on_one_cpu(table):
        return params
    decoder = dict(params["decoder"])
    head = decoder.get("head_DV")
    if table.dtype == jnp.bfloat16 and not isinstance(head, WideMap):
        decoder["head_DV"] = WideMap(table if head is None else head, turned=head is None, dtype=jnp.float32)
    layers = decoder["layers"]
    large = [name for name in LINEARS if _is_large(layers[name])] if rows is not None and rows <= FEW_ROWS else []
    fits = sum(layers[name].nbytes for name in large) <= ROOM * memory_of([*table.devices()])
    decoder["layers"] = {name: _map(name, leaf, fits and name in large) for name, leaf in layers.items()}
    return {**params, "decoder": decoder}


def _on_one_cpu(leaf: Any) -> bool:
    concrete = isinstance(leaf, Array) and not isinstance(leaf, jax.core.Tracer)
    return concrete and [device.platform for device in leaf.devices()] == ["cpu"]


def _is_large(leaf: Any) -> bool:
    return _on_one_cpu(leaf) and leaf.dtype == jnp.float32 and leaf.nbytes >= LARGE * len(leaf)


def _map(name: str, leaf: Any, apart: bool) -> Any:
    if name not in LINEARS or not _on_one_cpu(leaf):
        return leaf
    inputs = INPUT_AXES.get(name, 1)
    if leaf.dtype == jnp.bfloat16:
        return WideMap(_bits(leaf), inputs)
    if apart:
        return ApartMap(tuple(_layer(leaf, layer) for layer in range(len(leaf))), inputs=inputs)
    return leaf


def _bits(leaf: Array) -> Array:
    """The same memory, read as uint16."""
    return jax.device_put(np.asarray(leaf).view(np.uint16), leaf.sharding)


@jax.jit
def _layer(stack: Array, layer: int) -> Array:
    return jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False)
