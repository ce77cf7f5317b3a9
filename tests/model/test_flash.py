"""Attention kernels: what may be chosen where, and splash's own kernel against the plain one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.model.flash import choose, self_attention

LLAMA = TextConfig(V=64, D=512, L=1, N=4, K=4, H=128, F=64)


@pytest.mark.parametrize(
    ("platform", "size", "dtype", "kernel"),
    [
        ("tpu", 128, "bfloat16", "splash"),
        ("tpu", 80, "bfloat16", "xla"),
        ("gpu", 80, "bfloat16", "cudnn"),
        ("gpu", 128, "float32", "xla"),
        ("gpu", 256, "bfloat16", "xla"),
        ("cpu", 128, "bfloat16", "xla"),
    ],
)
def test_auto_takes_what_is_legal(platform, size, dtype, kernel):
    assert choose("auto", platform, dataclasses.replace(LLAMA, H=size), dtype) == kernel


@pytest.mark.parametrize(
    ("wanted", "platform", "size", "dtype", "problem"),
    [
        ("splash", "cpu", 128, "bfloat16", "splash runs on tpu only, not on cpu"),
        ("cudnn", "gpu", 128, "float32", "cudnn takes bfloat16 or float16 weights, not float32"),
        ("cudnn", "gpu", 20, "bfloat16", "cudnn takes heads of size .* not 20"),
        ("flash", "gpu", 128, "bfloat16", "'flash' is unknown; use one of auto, xla, cudnn, splash"),
    ],
)
def test_illegal_choices_say_why(wanted, platform, size, dtype, problem):
    with pytest.raises(InputError, match=problem):
        choose(wanted, platform, dataclasses.replace(LLAMA, H=size), dtype)


def test_xla_is_legal_everywhere():
    odd = dataclasses.replace(LLAMA, H=20)
    assert [choose("xla", platform, odd, "float32") for platform in ("cpu", "gpu", "tpu")] == ["xla"] * 3


@pytest.mark.parametrize(
    ("length", "kv_heads", "window"), [(40, 2, None), (130, 4, 7)], ids=["grouped queries", "window and two tiles"]
)
def test_splash_equals_xla(length, kv_heads, window):
    """Output and gradients at real positions: rows of unequal length that are no multiple of a tile."""
    rng = np.random.default_rng(0)
    q, k, v, weight = (
        jnp.asarray(rng.normal(size=(2, length, heads, 64)), jnp.float32) for heads in (4, kv_heads, kv_heads, 4)
    )
    lengths = jnp.array([length, length - 9], jnp.int32)
    weight = jnp.where((jnp.arange(length)[None] < lengths[:, None])[:, :, None, None], weight, 0.0)

    def run(kernel):
        def loss(q, k, v):
            out = self_attention(q, k, v, lengths, kernel=kernel, window=window, interpret=True)
            return (out * weight).sum(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, want), want_gradients = run("xla")
    (_, got), got_gradients = run("splash")
    real = np.asarray(weight) != 0
    np.testing.assert_allclose(np.asarray(got)[real], np.asarray(want)[real], rtol=2e-5, atol=2e-5)
    for a, b in zip(got_gradients, want_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_cudnn_sees_padding_and_window_through_lengths(monkeypatch):
    """No GPU here: what reaches `jax.nn.dot_product_attention` is run by its XLA path instead, and must be right."""
    asked = {}

    def on_xla(*args, implementation, **kwargs):
        asked["implementation"] = implementation
        return real(*args, **kwargs, implementation="xla")

    real = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", on_xla)
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 9, heads, 8)), jnp.float32) for heads in (4, 2, 2))
    lengths = jnp.array([9, 5], jnp.int32)
    got = self_attention(q, k, v, lengths, kernel="cudnn", window=3)
    want = self_attention(q, k, v, lengths, kernel="xla", window=3)
    assert asked == {"implementation": "cudnn"}
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(got[row, :length], want[row, :length], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "platform", "dtype"), [("cudnn", "gpu", "bfloat16"), ("splash", "tpu", "bfloat16")])
def test_layers_of_different_windows_run_on_xla(name, platform, dtype):
    cfg = TextConfig(V=8, D=64, L=2, N=1, K=1, H=64, F=8, sliding_window=4, windowed=(True, False))
    assert choose("auto", platform, cfg, dtype) == "xla"
    with pytest.raises(InputError, match=f"{name} takes one window for all layers"):
        choose(name, platform, cfg, dtype)
