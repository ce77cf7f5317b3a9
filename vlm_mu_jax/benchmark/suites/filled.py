"""Random arrays in the place of shapes: the arguments of a planned program, made on the devices that hold them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

SCALE = 0.02  # of weights and pixels


def filled(shapes: Any, seed: int) -> Any:
    """Arrays of the shapes, types and shardings of a tree of `jax.ShapeDtypeStruct`.

    Numbers are drawn; a row's length is its whole length; every mask is set; tokens, places and an optimizer's moments
    are zero. The values make a program do its usual work. They mean nothing.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    longest = max((x.shape[-1] for path, x in leaves if "tokens_" in keystr(path)), default=1)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten(_leaf(keystr(path), x, longest, key) for (path, x), key in zip(leaves, keys, strict=True))


def _leaf(path: str, shape: jax.ShapeDtypeStruct, longest: int, key: jax.Array) -> jax.Array:
    value = longest if "lengths_" in path else 1 if shape.dtype == jnp.bool_ else 0
    drawn = jnp.issubdtype(shape.dtype, jnp.floating) and "opt_state" not in path
    make = jax.jit(functools.partial(_made, shape.shape, shape.dtype, value, drawn), out_shardings=shape.sharding)
    return make(key)


def _made(shape: tuple[int, ...], dtype: Any, value: int, drawn: bool, key: jax.Array) -> jax.Array:
    if drawn:
        return (SCALE * jax.random.normal(key, shape, jnp.float32)).astype(dtype)
    return jnp.full(shape, value, dtype)
