"""bfloat16 weights as programs on a CPU read them fastest, where no derivative is taken.

XLA on CPU multiplies bfloat16 factors by AVX512-BF16 or AMX where the sum stays in float32, there are two rows or more,
and no factor is transposed first. Of any other bfloat16 product it writes the weights out as float32, at every call.
A scan over a bfloat16 stack carries a float32 copy of it. docs/performance.md says what this costs.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.model.params import Params

ROWS = 2  # fewer are no matrix product to XLA


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


def widened(params: Params) -> Params:
    """The same parameters with the decoder's bfloat16 linear maps and head as `WideMap`."""
    decoder = dict(params["decoder"])
    table, head = decoder["embed_VD"], decoder.get("head_DV")
    if table.dtype == jnp.bfloat16:
        tied = head is None
        decoder["head_DV"] = WideMap(table if tied else head, turned=tied, dtype=jnp.float32)
    decoder["layers"] = {name: _stack(name, leaf) for name, leaf in decoder["layers"].items()}
    return {**params, "decoder": decoder}


def _stack(name: str, leaf: Any) -> Any:
    if name not in LINEARS or not isinstance(leaf, Array) or leaf.dtype != jnp.bfloat16:
        return leaf
    return WideMap(jax.lax.bitcast_convert_type(leaf, jnp.uint16), INPUT_AXES.get(name, 1))
