"""One declaration per parameter: shape, logical axes and initialiser.

The same table gives initialisation, abstract shapes for restoring, sharding, and the checks of the converter.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.errors import InputError

_SMALL = 1 << 18

Params = dict[str, Any]  # nested dict of arrays
Specs = dict[str, Any]  # nested dict of ParamSpec


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """A parameter's declaration.

    shape: full shape, stacked layers first.
    axes: logical name of every axis ("layers", "embed", "heads", ...; None = never sharded).
    init: "zeros", "ones", or the standard deviation of a normal distribution.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str | float = 0.02

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), (self.shape, self.axes)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"decoder/layers/wq_LDNH": leaf}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, path + "/") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": leaf} -> {"a": {"b": leaf}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def init_params(specs: Specs, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Draws every parameter from its spec; a leaf's key depends on its path only, so that adding one moves no other."""
    flat = flatten(specs)
    return unflatten({path: _draw(spec, _path_key(key, path), dtype) for path, spec in flat.items()})


def _path_key(key: jax.Array, path: str) -> jax.Array:
    for byte in path.encode():
        key = jax.random.fold_in(key, byte)
    return key


def _draw(spec: ParamSpec, key: jax.Array, dtype: Any) -> jax.Array:
    """`spec.init * jax.random.normal(key, spec.shape)`; small leaves without a compiled program for every shape."""
    if isinstance(spec.init, str):
        return jnp.asarray(np.full(spec.shape, {"zeros": 0, "ones": 1}[spec.init], dtype))
    size = math.prod(spec.shape)
    if size > _SMALL or isinstance(key, jax.core.Tracer) or not jax.config.jax_threefry_partitionable:
        return (spec.init * jax.random.normal(key, spec.shape, jnp.float32)).astype(dtype)
    # A draw depends on the key and on its own place, not on how many there are.
    first = np.asarray(_normals(key))[:size].reshape(spec.shape)
    return jnp.asarray((np.float32(spec.init) * first).astype(dtype))


@jax.jit
def _normals(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (_SMALL,), jnp.float32)


def abstract_params(specs: Specs, dtype: Any = jnp.float32) -> Params:
    """The tree of `jax.ShapeDtypeStruct` a checkpoint is restored into."""
    return unflatten({path: jax.ShapeDtypeStruct(spec.shape, dtype) for path, spec in flatten(specs).items()})


def check_params(params: Params, specs: Specs, source: str) -> None:
    """Compares names and shapes with the declaration.

    Raises:
      InputError: names every missing, unexpected and misshapen parameter at once.
    """
    have, want = flatten(params), flatten(specs)
    problems = [f"{path} is missing" for path in sorted(want.keys() - have.keys())]
    problems += [f"{path} is unexpected" for path in sorted(have.keys() - want.keys())]
    problems += [
        f"{path} has shape {tuple(have[path].shape)}, the config wants {want[path].shape}"
        for path in sorted(want.keys() & have.keys())
        if tuple(have[path].shape) != want[path].shape
    ]
    if problems:
        raise InputError(f"{source}: the weights do not fit the config: " + "; ".join(problems))
