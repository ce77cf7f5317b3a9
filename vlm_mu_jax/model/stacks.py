"""Stacked block parameters of which only some layers train, and the runs of blocks that follow from them.

`lax.scan` over [L, ...] leaves differentiates all L layers or none. RMU trains three layers of thirty: below them
nothing may be kept for a backward pass, above them no weight may get a gradient. So the blocks are run in up to three
scans: before the trained layers, over them, after them.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.model.cpu_weights import ApartMap


@flax.struct.dataclass
class Stack:
    """A stacked parameter of which no layer trains, or only some.

    frozen: [L, ...]; it gets no gradient. Runs of some blocks read it in place, one layer at a time, without a copy.
    trained: [S, ...], its layers `layers` as they are in training; None when none trains.
    """

    frozen: Any
    trained: Any = None
    layers: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())


@dataclasses.dataclass(frozen=True)
class Run:
    """Blocks first..end - 1. scanned: name -> [end - first, ...]; in_place: name -> frozen [L, ...], or layers apart.

    whole: these are all blocks of the model.
    """

    first: int
    end: int
    scanned: dict[str, Any]
    in_place: dict[str, Any]
    whole: bool

    def cut(self, tree: Any) -> Any:
        """The part of other [L, ...] leaves that belongs to this run."""
        return _cut(tree, self.first, self.end)

    def at(self, scanned: dict[str, Any], layer: Array | None) -> dict[str, Any]:
        """Parameters of one block, inside the scan; layer: its number."""
        return {**scanned, **{name: _read(leaf, layer) for name, leaf in self.in_place.items()}}


def freeze(layers: dict[str, Any]) -> dict[str, Any]:
    """The same parameters, none of which trains."""
    return {name: leaf if isinstance(leaf, Stack | ApartMap) else Stack(leaf) for name, leaf in layers.items()}


def runs(layers: dict[str, Any], first: int, end: int) -> list[Run]:
    """Blocks first..end - 1 in order, cut where the trained layers begin and end."""
    depth = jax.tree.leaves(layers)[0].shape[0]
    trained = [layer for leaf in layers.values() if isinstance(leaf, Stack) for layer in leaf.layers]
    cuts = {first, end} | ({min(trained), max(trained) + 1} if trained else set())
    edges = sorted(edge for edge in cuts if first <= edge <= end)
    return [_run(layers, a, b, depth) for a, b in zip(edges, edges[1:], strict=False)]


def _run(layers: dict[str, Any], a: int, b: int, depth: int) -> Run:
    scanned, in_place, whole = {}, {}, (a, b) == (0, depth)
    for name, leaf in layers.items():
        if isinstance(leaf, ApartMap):
            in_place[name] = leaf
        elif not isinstance(leaf, Stack):
            scanned[name] = leaf if whole else _cut(leaf, a, b)
        elif not any(a <= layer < b for layer in leaf.layers):
            # A scan over the whole stack needs no copy either, and keeps none of it for the backward pass.
            (scanned if whole else in_place)[name] = jax.lax.stop_gradient(leaf.frozen)
        elif leaf.layers == tuple(range(a, b)):
            scanned[name] = leaf.trained
        else:
            scanned[name] = _mixed(leaf, a, b)
    return Run(a, b, scanned, in_place, whole)


def _read(leaf: Any, layer: Array) -> Any:
    """One layer of parameters that stay where they are."""
    if isinstance(leaf, ApartMap):
        return leaf.replace(layer=layer)
    return jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, layer, keepdims=False), leaf)


def _mixed(leaf: Stack, a: int, b: int) -> Array:
    """Layers a..b - 1, of which some train."""
    inside = [(i, layer) for i, layer in enumerate(leaf.layers) if a <= layer < b]
    rows, places = (jnp.asarray(column) for column in zip(*inside, strict=True))
    return jax.lax.stop_gradient(leaf.frozen[a:b]).at[places - a].set(leaf.trained[rows])


def _cut(tree: Any, a: int, b: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[a:b], tree)
