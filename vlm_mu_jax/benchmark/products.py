"""What a model's answers would cost if only its float32 products were computed, in XLA and at the rows they have.

Norms, attention, activations and the choice of tokens are left out. What is left is what faster products alone could
save; until then it bounds the ratio to a peer.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.storage.model_folder import Model


def answer_seconds(model: Model, prompt_tokens: int, rows: int, new_tokens: int) -> float:
    """Seconds of the products of `prompt_tokens`, the prompts' of all rows, and of `new_tokens` tokens of each row."""
    decoder = model.params["decoder"]
    stacks = [decoder["layers"][name].reshape(model.config.text.L, _width(decoder, name), -1) for name in LINEARS]
    maps = [stack[layer] for layer in range(model.config.text.L) for stack in stacks]
    head = decoder["embed_VD"].T if model.config.text.tie_embeddings else decoder["head_DV"]
    step = _seconds([*maps, head], rows)
    return _seconds(maps, prompt_tokens) + _seconds([head], rows) + new_tokens * step


def _width(decoder: dict, name: str) -> int:
    return math.prod(decoder["layers"][name].shape[1 : 1 + INPUT_AXES.get(name, 1)])


def _seconds(maps: list[Array], rows: int) -> float:
    """Of the product of every map with `rows` inputs, one after the other: the best of ten."""
    inputs = {w.shape[0]: jnp.ones((rows, w.shape[0]), w.dtype) for w in maps}
    return timing.best_of(lambda: jax.block_until_ready(_products(maps, inputs)))


@jax.jit
def _products(maps: list[Array], inputs: dict[int, Array]) -> list[Array]:
    return [inputs[w.shape[0]] @ w for w in maps]
