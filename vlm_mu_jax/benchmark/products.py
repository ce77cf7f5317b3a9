"""What a model's answers would cost if nothing but its products were computed, in XLA and at the rows they have.

Norms, attention, activations and the choice of tokens are left out. No other arrangement of the same program can save
what is left, so that it bounds the ratio to any peer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.model.cpu_weights import WideMap, for_cpu
from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.storage.model_folder import Model


def answer_seconds(model: Model, prompt_tokens: int, rows: int, new_tokens: int) -> float:
    """Seconds of the products of `prompt_tokens`, the prompts' of all rows, and of `new_tokens` tokens of each row."""
    layers, head = _apart(model)
    step = _seconds([*layers, head], rows)
    return _seconds(layers, prompt_tokens) + _seconds([head], rows) + new_tokens * step


def _apart(model: Model) -> tuple[list[dict], dict]:
    """The linear maps of every layer as generation reads them, each layer for itself, and the head."""
    decoder = for_cpu(model.params)["decoder"]
    stacks = {name: decoder["layers"][name] for name in LINEARS}
    layers = [jax.tree.map(lambda x, layer=layer: x[layer], stacks) for layer in range(model.config.text.L)]
    return layers, {"head": decoder["head_DV"]} if "head_DV" in decoder else {"table": decoder["embed_VD"]}


def _seconds(layers: list[dict], rows: int) -> float:
    """Of the product of every map with `rows` inputs, one after the other: the best of ten."""
    widths = {_width(name, w) for layer in layers for name, w in layer.items()}
    dtype = jax.tree.leaves(layers)[0].dtype
    inputs = {width: jnp.ones((rows, width), jnp.bfloat16 if dtype == jnp.uint16 else dtype) for width in widths}
    return timing.best_of(lambda: jax.block_until_ready(_products(layers, inputs)))


@jax.jit
def _products(layers: list[dict], inputs: dict[int, Array]) -> list[Array]:
    return [_product(name, w, inputs[_width(name, w)]) for layer in layers for name, w in layer.items()]


def _product(name: str, w: Any, x: Array) -> Array:
    if isinstance(w, WideMap):
        return w.product(x)
    return x @ (w.T if name == "table" else w.reshape(x.shape[1], -1))


def _width(name: str, w: Any) -> int:
    shape = w.array.shape if isinstance(w, WideMap) else w.shape
    if name == "table" or isinstance(w, WideMap) and w.turned:
        return shape[1]
    return math.prod(shape[: INPUT_AXES.get(name, 1)])
