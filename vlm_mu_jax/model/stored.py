"""The decoder's linear maps held in 8 or 4 bits: a frozen base that takes half or a quarter of the memory.

    held = hold(params, Scheme.parse("int8"))  # codes and scales in the place of the decoder's linear maps
    forward(held, batch, cfg)                  # as of `quantize(params, scheme)`, the same roundings

A map is decoded where it is used, so that of a scan over layers one layer at a time is in floating point. Codes are
never differentiated, and the backward pass decodes them again instead of keeping the weights. Four-bit codes are packed
two to a byte, which takes the same room on every device.

qwix (0.1) rewrites Flax modules for this; the decoder here is pure functions, for which that is the longer way.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding

from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS, PREFIX
from vlm_mu_jax.model.params import Params, ParamSpec, Specs, flatten, unflatten
from vlm_mu_jax.model.quantize import KINDS, NF4, Scheme, encoded
from vlm_mu_jax.parallel import rules


@flax.struct.dataclass
class StoredLinear:
    """A linear map [I..., O...] in few bits, or a stack of them with a leading axis of layers.

    codes: [..., G, S, O], S inputs of each of G groups, int8; of four bits uint8 [..., G, S / 2, O], the second half of
      a group's inputs in the high bits.
    scale: float32 [..., G, 1, O].
    inputs, outputs: I... and O.... dtype: of the decoded map.
    """

    codes: Array
    scale: Array
    scheme: Scheme = flax.struct.field(pytree_node=False)
    inputs: tuple[int, ...] = flax.struct.field(pytree_node=False)
    outputs: tuple[int, ...] = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded map."""
        return (*self.codes.shape[:-3], *self.inputs, *self.outputs)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        width = math.prod(self.inputs)
        return min(self.scheme.group or width, width)

    def array(self) -> Array:
        """The map in floating point."""
        codes = self.codes
        if KINDS[self.scheme.kind][0] == 4:
            codes = jnp.concatenate([codes & 15, codes >> 4], axis=-2)[..., : self.group, :]
        *lead, groups, size, outputs = codes.shape
        w = self.decoded(codes).reshape(*lead, groups * size, outputs)
        return w[..., : math.prod(self.inputs), :].reshape(self.shape)

    def decoded(self, codes: Array) -> Array:
        """The weights of codes, each byte one of them, as `quantize.decoded` has them."""
        if self.scheme.kind == "nf4":
            values = jnp.asarray(NF4)[codes.astype(jnp.int32)]
        else:
            values = codes.astype(jnp.float32) - (8.0 if self.scheme.kind == "int4" else 0.0)
        return (values * self.scale).astype(self.dtype)

    def product(self, x: Array) -> Array:
        """`x[..., I] @ map[I, O...]`, I all inputs as one axis. The backward pass decodes again."""
        return jax.checkpoint(_product, prevent_cse=False)(x, self)


def _product(x: Array, stored: StoredLinear) -> Array:
    """Decoding is elementwise, so that a compiler can do it while it reads the codes. Of two codes in a byte each has a
    product of its own: taking the inputs apart is cheaper than putting the weights together."""
    groups, size, outputs = stored.codes.shape
    lead, width, each = x.shape[:-1], x.shape[-1], stored.group
    x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, groups * each - width)]).reshape(*lead, groups, each)
    parts = [(x, stored.codes)]
    if KINDS[stored.scheme.kind][0] == 4:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 2 * size - each)])  # an odd group has one more in bytes
        parts = list(zip(jnp.split(x, 2, axis=-1), (stored.codes & 15, stored.codes >> 4), strict=True))
    products = [jnp.matmul(x.reshape(*lead, -1), stored.decoded(codes).reshape(-1, outputs)) for x, codes in parts]
    return sum(products[1:], products[0]).reshape(*lead, *stored.outputs)


def hold(params: Params, scheme: Scheme, specs: Specs | None = None, mesh: Mesh | None = None) -> Params:
    """The parameters with the decoder's linear maps as `StoredLinear`; all other leaves are the same arrays.

    Args:
      scheme: how they are rounded.
      specs, mesh: where the weights lie on several devices. Codes and scales are split as their weights are.
    """
    layers = dict(params["decoder"]["layers"])
    for name in LINEARS:
        store = functools.partial(_stored, scheme=scheme, inputs=INPUT_AXES.get(name, 1))
        places = None
        if mesh is not None:
            places = shardings(
                jax.eval_shape(store, layers[name]), PREFIX + name, specs["decoder"]["layers"][name], mesh
            )
        layers[name] = jax.jit(store, out_shardings=places)(layers[name])
    return {**params, "decoder": {**params["decoder"], "layers": layers}}


def _stored(w: Array, scheme: Scheme, inputs: int) -> StoredLinear:
    def one(w_layer: Array) -> tuple[Array, Array]:
        codes, scale = (x[0] for x in encoded(w_layer[None], scheme, inputs))
        return (codes if codes.dtype == jnp.int8 else _packed(codes, scheme.kind)), scale

    codes, scale = jax.lax.map(one, w)
    split = 1 + inputs
    return StoredLinear(codes, scale, scheme, w.shape[1:split], w.shape[split:], w.dtype)


def shardings(stored: StoredLinear, path: str, spec: ParamSpec, mesh: Mesh) -> StoredLinear:
    """Where codes and scales of a stack lie: the inputs' mesh axis splits the groups, or each group where it must.

    Raises InputError for a mesh axis that divides neither.
    """
    split = 1 + len(stored.inputs)
    inputs, outputs = spec.axes[1], spec.axes[split]
    axis = None if inputs is None else rules.RULES.get(inputs)
    groups = axis is not None and stored.codes.shape[1] % mesh.shape[axis] == 0
    codes = (spec.axes[0], inputs, None, outputs) if groups else (spec.axes[0], None, inputs, outputs)
    scale = (spec.axes[0], inputs if groups else None, None, outputs)

    def place(axes: tuple[str | None, ...], x: Any) -> NamedSharding:
        return NamedSharding(mesh, rules.partition(path, axes, x.shape, mesh))

    return dataclasses.replace(stored, codes=place(codes, stored.codes), scale=place(scale, stored.scale))


def merged(params: Params, lora: Mapping[str, Any] | None) -> Params:
    """Ordinary parameters: stored maps decoded, adapters added as `lora.merge` does, layer by layer."""
    flat = flatten(params)
    for path, leaf in flat.items():
        if isinstance(leaf, StoredLinear):
            flat[path] = _merged(leaf, (lora or {}).get(path.removeprefix(PREFIX)))
    return unflatten(flat)


@jax.jit
def _merged(stored: StoredLinear, pair: dict[str, Array] | None) -> Array:
    def one(layer: tuple[StoredLinear, dict[str, Array] | None]) -> Array:
        w, pair = layer[0].array(), layer[1]
        if pair is None:
            return w
        b = pair["b"].reshape(pair["b"].shape[0], -1)
        delta = pair["scale"] * jnp.matmul(pair["a"], b, preferred_element_type=jnp.float32)
        return (w.astype(jnp.float32) + delta.reshape(w.shape)).astype(w.dtype)

    return jax.lax.map(one, (stored, pair))


def _packed(codes_GSO: Array, kind: str) -> Array:
    """Four-bit codes, two to a byte; an odd number of inputs gets one more."""
    codes = codes_GSO.astype(jnp.int32) + (8 if kind == "int4" else 0)
    codes = jnp.pad(codes, ((0, 0), (0, codes.shape[1] % 2), (0, 0)))
    low, high = jnp.split(codes, 2, axis=1)
    return (low + 16 * high).astype(jnp.uint8)
