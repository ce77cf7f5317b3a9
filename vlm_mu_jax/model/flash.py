"""Causal self-attention of whole rows: which implementation runs, and the table of what is legal where.

    kernel  runs on    dtypes              head size             masks
    xla     anything   any                 any                   causal, right padding, window
    cudnn   NVIDIA     bfloat16, float16   8, 16 ... 128         causal, right padding, window
    splash  TPU        bfloat16, float32   64, 128, 256          causal, right padding, window

None writes the [T, T] scores to memory: xla is `model.causal`, cuDNN is reached through `jax.nn.dot_product_attention`,
splash through `jax.experimental.pallas`. Key segments of earlier tokens (generation, the attack's shared prefix) are
read by `attention.attend`, whatever is chosen here: their queries are few. What padded queries return has no meaning.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.causal import causal_attention
from vlm_mu_jax.model.config import TextConfig
from vlm_mu_jax.parallel.activations import row_axes

KERNELS = ("auto", "xla", "cudnn", "splash")
_LANES = 128  # rows of a TPU tile: splash works on blocks of a multiple of it


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a kernel can do. platform: of jax's devices."""

    platform: str
    dtypes: tuple[str, ...]
    heads: tuple[int, ...]


_RULES = {
    "cudnn": _Rule("gpu", ("bfloat16", "float16"), tuple(range(8, 129, 8))),
    "splash": _Rule("tpu", ("bfloat16", "float32"), (64, 128, 256)),
}


def choose(wanted: str, platform: str, cfg: TextConfig, dtype: str) -> str:
    """The kernel to put into `TextConfig.attention`.

    Args:
      wanted: one of KERNELS; "auto" takes the platform's kernel where it is legal, else xla.
      platform: "cpu", "gpu" or "tpu", of the devices the program is for.
      dtype: of the weights.

    Raises:
      InputError: unknown, or not legal here; says why.
    """
    if wanted not in KERNELS:
        raise InputError(f"config.model.attention: {wanted!r} is unknown; use one of {', '.join(KERNELS)}")
    if wanted == "auto":
        legal = [name for name in _RULES if not _problem(name, platform, cfg, dtype)]
        return legal[0] if legal else "xla"
    problem = None if wanted == "xla" else _problem(wanted, platform, cfg, dtype)
    if problem:
        raise InputError(f"config.model.attention: {wanted} {problem}; use auto or xla")
    return wanted


def _problem(name: str, platform: str, cfg: TextConfig, dtype: str) -> str | None:
    rule = _RULES[name]
    if cfg.image_run is not None:
        return "is causal, and this model's image tokens read each other both ways"
    if cfg.windowed:
        return "takes one window for all layers, not one that differs between layers"
    if platform != rule.platform:
        return f"runs on {rule.platform} only, not on {platform}"
    if dtype not in rule.dtypes:
        return f"takes {' or '.join(rule.dtypes)} weights, not {dtype}"
    if cfg.H not in rule.heads:
        return f"takes heads of size {', '.join(map(str, rule.heads))}, not {cfg.H}"
    return None


def self_attention(
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    lengths_B: Array,
    *,
    kernel: str,
    window: int | Array | None = None,
    until_BT: Array | None = None,
    run: int = 1,
    interpret: bool = False,
) -> Array:
    """Causal softmax attention of right-padded rows over themselves. Returns [B, T, N, H].

    Args:
      kernel: "xla", "cudnn" or "splash", as `choose` returns it.
      window: keys that a query reads, up to its own. An array where the layers of a scan differ; "xla" only.
      until_BT, run: as in `causal.causal_attention`; "xla" only.
      interpret: run splash's kernel in Python on any device (slow; for tests).
    """
    if isinstance(window, Array):
        return causal_attention(q_BTNH, k_BTKH, v_BTKH, lengths_B, None, window, until_BT, run)
    if kernel == "xla":
        return causal_attention(q_BTNH, k_BTKH, v_BTKH, lengths_B, window, None, until_BT, run)
    if kernel == "cudnn":
        out = jax.nn.dot_product_attention(
            q_BTNH,
            k_BTKH,
            v_BTKH,
            is_causal=True,
            key_value_seq_lengths=lengths_B,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )
        return checkpoint_name(out, "attn_out")
    run = functools.partial(_splash, window=window, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(q_BTNH, k_BTKH, v_BTKH, lengths_B)
    rows = row_axes(q_BTNH.shape[0])
    heads = PartitionSpec(rows, None, "tensor", None)  # the rule table splits q and k/v heads alike
    return jax.shard_map(run, in_specs=(heads,) * 3 + (PartitionSpec(rows),), out_specs=heads, check_vma=False)(
        q_BTNH, k_BTKH, v_BTKH, lengths_B
    )


def _splash(
    q_BTNH: Array, k_BTKH: Array, v_BTKH: Array, lengths_B: Array, *, window: int | None, interpret: bool
) -> Array:
    """One device's rows and heads. Rows are padded to whole tiles."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, N, H = q_BTNH.shape[1:]
    size = -(-T // _LANES) * _LANES
    mask = masks.CausalMask((size, size)) if window is None else masks.LocalMask((size, size), (window - 1, 0), 0)
    block = next(b for b in (512, 384, 256, _LANES) if size % b == 0)
    blocks = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * N),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        residual_checkpoint_name="attn_out",  # output and log-sum-exp, what the backward pass reads
    )

    def heads_first(x_BTNH: Array) -> Array:
        padded = jnp.pad(x_BTNH, ((0, 0), (0, size - T), (0, 0), (0, 0)))
        return padded.transpose(0, 2, 1, 3)

    real_BS = (jnp.arange(size, dtype=jnp.int32)[None] < lengths_B[:, None]).astype(jnp.int32)
    ids = splash.SegmentIds(q=jnp.ones_like(real_BS), kv=real_BS)
    out = jax.vmap(kernel)(heads_first(q_BTNH * H**-0.5), heads_first(k_BTKH), heads_first(v_BTKH), ids)
    return out.transpose(0, 2, 1, 3)[:, :T].astype(q_BTNH.dtype)
