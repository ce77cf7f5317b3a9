"""bin/bench attention: causal self-attention of whole rows and its gradient, on one device.

Ours is `model.causal`, which a CPU runs; the peer is `jax.nn.dot_product_attention`, as XLA compiles it. Row `forward`:
the mixed values. Row `gradient`: with respect to queries, keys and values. memory_*: temporary memory of the program.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.model.causal import causal_attention

_TOKENS = {"tiny": 48, "small": 160, "mid": 640, "7b": 768}
_HEADS, _KEY_HEADS, _WIDTH = 8, 8, 64


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `forward` and `gradient`, in tokens/s."""
    B, T = options.rows, _TOKENS[options.size]
    keys = jax.random.split(jax.random.key(options.seed), 3)
    q, k, v = (jax.random.normal(key, (B, T, _HEADS, _WIDTH), jnp.float32) for key in keys)
    arguments = q, k, v, jnp.full((B,), T, jnp.int32)
    rows = []
    for name, wrap in (("forward", jax.jit), ("gradient", _gradient)):
        ours, peer = (wrap(one).lower(*arguments).compile() for one in (causal_attention, _peer))
        row = timing.compare(
            name,
            _side(ours, arguments),
            _side(peer, arguments),
            count=B * T,
            unit="tokens/s",
            agrees=_close,
            repeats=options.repeats,
        )
        memory = {"memory_ours": _temporary(ours), "memory_peer": _temporary(peer)}
        rows.append(row | memory)
    return timing.result("attention", rows)


def _peer(q: jax.Array, k: jax.Array, v: jax.Array, lengths_B: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, key_value_seq_lengths=lengths_B, implementation="xla")


def _gradient(attention: Callable[..., jax.Array]) -> Any:
    return jax.jit(jax.grad(lambda *arguments: (attention(*arguments) ** 2).sum(), argnums=(0, 1, 2)))


def _side(program: Any, arguments: tuple[jax.Array, ...]) -> timing.Side:
    return timing.here(lambda: jax.block_until_ready(program(*arguments)))


def _close(ours: Any, peer: Any) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(peer), strict=True)
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def _temporary(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes
