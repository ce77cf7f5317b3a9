"""Norms, activations, linear maps, rotary positions and remat policies."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.cpu_weights import ApartMap, WideMap
from vlm_mu_jax.model.stored import StoredLinear

Held = StoredLinear | WideMap | ApartMap  # linear maps that know how to multiply
Linear = Array | Held
Angles = tuple[Array, Array]  # cosine and sine of the rotary angles, see `rope_angles`
_SAVEABLE = jax.checkpoint_policies
_ATTENTION = _SAVEABLE.save_only_these_names("attn_out")
# What a block keeps for its backward pass.
#   none      everything
#   full      its input alone
#   dots      its input, and the outputs of its linear maps and its attention; the rest is cheap to compute again, which
#             gives about half the memory of "none" at the same speed
#   attn_out  its input and the output of its attention
REMAT_POLICIES = {
    "none": None,
    "full": _SAVEABLE.nothing_saveable,
    "dots": _SAVEABLE.save_from_both_policies(_SAVEABLE.dots_with_no_batch_dims_saveable, _ATTENTION),
    "attn_out": _ATTENTION,
}


def remat(block: Callable, name: str) -> Callable:
    """Wraps a scan body in `jax.checkpoint` under a named policy; "none" leaves it alone."""
    if name == "none":
        return block
    return jax.checkpoint(block, policy=REMAT_POLICIES[name], prevent_cse=False)


def rms_norm(x: Array, scale_D: Array, eps: float, offset: bool = False) -> Array:
    """Root-mean-square norm over the last axis; statistics in float32, output in x's dtype.

    offset: scale by 1 + scale_D in float32 (as HF Gemma3RMSNorm), not by scale_D in x's dtype (as HF LlamaRMSNorm).
    """
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    if offset:
        return (x32 * (1.0 + _as(scale_D, x).astype(jnp.float32))).astype(x.dtype)
    return x32.astype(x.dtype) * _as(scale_D, x)


def layer_norm(x: Array, scale_D: Array, bias_D: Array, eps: float) -> Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * _as(scale_D, x32) + _as(bias_D, x32)).astype(x.dtype)


def _as(vector: Array, like: Array) -> Array:
    """A [D] vector shaped to multiply [..., D] without rank promotion."""
    return vector.reshape((1,) * (like.ndim - vector.ndim) + vector.shape)


def linear(x: Array, w: Linear, bias: Array | None = None, lora: dict | None = None) -> Array:
    """`x[..., I] @ w[I, O...]`, with an optional bias [O...] and LoRA pair {"a": [I, R], "b": [R, O...], "scale"}.

    w: an array, a map in few bits, or one as a CPU reads it.
    """
    y = w.product(x) if isinstance(w, Held) else product(x, w)
    if lora is not None:
        y = y + lora["scale"].astype(y.dtype) * product(product(x, lora["a"]), lora["b"])
    return y if bias is None else y + _as(bias, y)


@jax.custom_vjp
def product(x: Array, w: Array) -> Array:
    """`x[..., I] @ w[I, O...]`. The gradient of w turns the narrower of its two factors, which XLA must write out with
    the tokens last: JAX's own rule turns that of the output, and for an MLP all of its activations with it."""
    return jnp.tensordot(x, w, axes=1)


def _product_forward(x: Any, w: Any) -> tuple[Array, tuple[Array | None, Array | None]]:
    """x, w: values, and whether they are differentiated (`perturbed`); what no gradient needs is not kept."""
    kept = (x.value if w.perturbed else None, w.value if x.perturbed else None)
    return jnp.tensordot(x.value, w.value, axes=1), kept


def _product_backward(kept: tuple[Array | None, Array | None], dy: Array) -> tuple[Array | None, Array | None]:
    x, w = kept
    dx = None if w is None else jnp.tensordot(dy, jnp.moveaxis(w, 0, -1), axes=w.ndim - 1)
    return dx, None if x is None else _weight_gradient(x, dy)


def _weight_gradient(x: Array, dy: Array) -> Array:
    tokens = tuple(range(x.ndim - 1))
    outputs = math.prod(dy.shape[x.ndim - 1 :])
    if x.shape[-1] <= outputs:
        return jnp.tensordot(x, dy, axes=(tokens, tokens))
    return jnp.moveaxis(jnp.tensordot(dy, x, axes=(tokens, tokens)), -1, 0)


product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


# By the names of Hugging Face configs. `gelu` is the exact (erf) one.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """One of ACTIVATIONS; `families.from_hf` refuses other names when a config is read."""
    return ACTIVATIONS[name]


def rope_tables(cfg: TextConfig, positions_BT: Array, lengths_B: Array) -> Angles:
    """`rope_angles` of the decoder's layers, [B, T, 1, H/2]; with two bases, [2, B, T, 1, H/2]: the layers' without the
    window, then the others'.

    positions_BT: [B, T]; or [B, T, 3], positions along the axes that `cfg.rope_axes` names.
    lengths_B: of the rows so far, which "dynamic" scaling asks for.
    """
    if positions_BT.ndim == 3:
        positions_BT = positions_BT[:, :, np.array(cfg.rope_axes)]
    factor = cfg.rope_scaling.attention_factor if cfg.rope_scaling else 1.0
    angles = rope_angles(positions_BT, rope_frequencies(cfg, lengths_B))
    if factor != 1.0:
        angles = jax.tree.map(lambda x: x * factor, angles)
    if cfg.window_rope_theta is None:
        return angles
    local = dataclasses.replace(cfg, rope_theta=cfg.window_rope_theta, rope_scaling=None)
    others = rope_angles(positions_BT, rope_frequencies(local, lengths_B))
    return jax.tree.map(lambda *both: jnp.stack(both), angles, others)


def rope_frequencies(cfg: TextConfig, lengths_B: Array) -> Array:
    """Rotary frequencies per row, float32 [B, H/2]; formulas of transformers `modeling_rope_utils.py`.

    "dynamic" (NTK) depends on the row's own length, not on the longest row of the batch as in HF: padding and
    neighbours then change nothing.
    """
    half = jnp.arange(0, cfg.H, 2, dtype=jnp.float32) / cfg.H
    scaling = cfg.rope_scaling
    rows = jnp.ones((lengths_B.shape[0], 1), jnp.float32)
    if scaling is not None and scaling.kind == "dynamic":
        original = float(scaling.original_max_positions)
        length = jnp.maximum(lengths_B.astype(jnp.float32), original)[:, None]
        base = cfg.rope_theta * (scaling.factor * length / original - (scaling.factor - 1)) ** (cfg.H / (cfg.H - 2))
        return base ** -half[None, :]
    frequencies = cfg.rope_theta**-half
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        frequencies = _llama3(frequencies, scaling)
    if scaling is not None and scaling.kind == "yarn":
        frequencies = _yarn(frequencies, cfg)
    return rows * frequencies[None, :]


def _yarn(frequencies: Array, cfg: TextConfig) -> Array:
    """YaRN (arXiv 2309.00071): slow dimensions divided by `factor`, fast ones kept, a linear ramp between."""
    scaling, half = cfg.rope_scaling, cfg.H // 2

    def dimension(turns: float) -> float:
        """Of the frequency that makes so many turns over the original context."""
        wavelength = scaling.original_max_positions / (turns * 2 * math.pi)
        return cfg.H * math.log(wavelength) / (2 * math.log(cfg.rope_theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, cfg.H - 1)
    ramp = (jnp.arange(half, dtype=jnp.float32) - low) / (high - low if high != low else 0.001)
    slow = jnp.clip(ramp, 0.0, 1.0)
    return frequencies / scaling.factor * slow + frequencies * (1 - slow)


def _llama3(frequencies: Array, scaling) -> Array:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear ramp between."""
    wavelength = 2 * jnp.pi / frequencies
    turns = scaling.original_max_positions / wavelength
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    ramp = jnp.clip(ramp, 0.0, 1.0)
    return (1 - ramp) * frequencies / scaling.factor + ramp * frequencies


def rope_angles(positions_BT: Array, frequencies_BH: Array) -> Angles:
    """(cos, sin) [B, T, 1, H/2], made once for all layers and heads.

    positions_BT: [B, T], or [B, T, H/2] where each frequency has a position of its own.
    Made in every layer for every head they would cost as much as a projection. They are float32: bfloat16 would round
    position 257 to 256.
    """
    turns = positions_BT.astype(jnp.float32).reshape(*positions_BT.shape[:2], 1, -1)
    angles = turns * frequencies_BH[:, None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rope(x_BTNH: Array, angles: Angles) -> Array:
    """Rotates pairs (i, i + H/2) by `rope_angles`."""
    cos, sin = angles
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
