"""Low-rank adapters as a second pytree beside the weights (LoRA, arXiv 2106.09685).

`forward(..., lora=adapters)` adds `scale * (x a) b` to the named decoder linears. With `lora=None` the model is the
reference model exactly: no second copy of the weights is ever needed. Shapes, with I the flattened input size of the
linear and O its output shape as in the weight: a [L, I, R], b [L, R, *O], scale [L].
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import Params, ParamSpec, Specs, flatten, unflatten

PREFIX = "decoder/layers/"
LINEARS = ("wq_LDNH", "wk_LDKH", "wv_LDKH", "wo_LNHD", "wgate_LDF", "wup_LDF", "wdown_LFD")
INPUT_AXES = {"wo_LNHD": 2}  # all other linears read one axis


def adapted_linears(specs: Specs, patterns: tuple[str, ...] = (".*",)) -> list[str]:
    """Names of the decoder linears any pattern matches in full, e.g. ("wq.*", "wv.*").

    Raises:
      InputError: a pattern that matches no linear.
    """
    present = [name for name in LINEARS if name in specs["decoder"]["layers"]]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in present):
            raise InputError(f"train.lora_targets: {pattern!r} matches no linear; they are {', '.join(present)}")
    return [name for name in present if any(re.fullmatch(pattern, name) for pattern in patterns)]


def over_linears(params: Params, change: Callable[[Any, int], Any]) -> Params:
    """The parameters with `change(stack, number of its input axes)` in place of every stack of decoder linears. What is
    left alone is the same array as before."""
    layers = dict(params["decoder"]["layers"])
    for name in LINEARS:
        layers[name] = change(layers[name], INPUT_AXES.get(name, 1))
    return {**params, "decoder": {**params["decoder"], "layers": layers}}


def lora_specs(specs: Specs, patterns: tuple[str, ...], rank: int) -> Specs:
    """Declarations of a and b for every adapted linear: {"decoder": {"layers": {name: {"a", "b"}}}}.

    a is drawn with standard deviation 1 / sqrt(I), b starts at zero, so that training starts at the base model.
    """
    if rank < 1:
        raise InputError(f"train.lora_rank must be at least 1, not {rank}")
    declared: dict[str, ParamSpec] = {}
    for name in adapted_linears(specs, patterns):
        weight: ParamSpec = specs["decoder"]["layers"][name]
        split = 1 + INPUT_AXES.get(name, 1)
        width = math.prod(weight.shape[1:split])
        inputs = weight.axes[1] if split == 2 else None
        declared[f"{PREFIX}{name}/a"] = ParamSpec((weight.shape[0], width, rank), ("layers", inputs, None), width**-0.5)
        declared[f"{PREFIX}{name}/b"] = ParamSpec(
            (weight.shape[0], rank, *weight.shape[split:]), ("layers", None, *weight.axes[split:]), "zeros"
        )
    return unflatten(declared)


def adapters(pairs: Params, scale: float, dtype: Any) -> dict[str, Any]:
    """What `forward(lora=...)` reads: {name: {"a", "b", "scale"}} for the decoder's layers, in the model's dtype."""
    layers = pairs["decoder"]["layers"]
    return {
        name: {
            "a": pair["a"].astype(dtype),
            "b": pair["b"].astype(dtype),
            "scale": jnp.full((pair["a"].shape[0],), scale, jnp.float32),
        }
        for name, pair in layers.items()
    }


def merge(params: Params, lora: dict[str, Any]) -> Params:
    """Weights with the adapters added in: W + scale * a b, summed in float32 and rounded once to W's dtype."""
    flat = flatten(params)
    for name, pair in lora.items():
        weight = flat[PREFIX + name]
        delta = jnp.einsum(
            "lir,lro->lio", pair["a"], pair["b"].reshape(*pair["b"].shape[:2], -1), preferred_element_type=jnp.float32
        )
        scaled = (pair["scale"][:, None, None] * delta).reshape(weight.shape)
        flat[PREFIX + name] = (weight.astype(jnp.float32) + scaled).astype(weight.dtype)
    return unflatten(flat)


def init_lora(specs: Specs, patterns: tuple[str, ...], rank: int, key: jax.Array) -> Params:
    """Fresh float32 pairs; see `lora_specs`."""
    from vlm_mu_jax.model.params import init_params

    return init_params(lora_specs(specs, patterns, rank), key, jnp.float32)
