"""What the suites of bin/bench share: sizes, random checkpoints and prompts, and the comparison of two sides.

A side is a function without arguments that runs its job once and returns (answer, seconds). Weights are random, and
the same on both sides: one Hugging Face checkpoint. Inputs are drawn from a seed.
"""

import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax import progress
from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.errors import JobError

Side = Callable[[], tuple[Any, float]]

_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_CLIP_SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
_LLAMA_SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
# (decoder, vision tower), in the words of Hugging Face configs
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "tiny": (
        {
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    "small": ({"vocab_size": 8000, **_LLAMA_SMALL}, {**_CLIP_SMALL, "image_size": 112, "patch_size": 14}),
    "mid": ({"vocab_size": 32000, **_LLAMA_SMALL}, {**_CLIP_SMALL, "image_size": 336, "patch_size": 14}),
    "7b": (
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        _CLIP_LARGE,
    ),
}


def load(folder: str | Path) -> tuple[dict, Any]:
    """Parameters on the device, and the config, of a Hugging Face checkpoint."""
    checkpoint = import_checkpoint(folder)
    return jax.device_put(checkpoint.params), checkpoint.config


def prompts(name: str, cfg: Any, rows: int, longest: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Drawn right-padded rows `{name}_tokens, _mask, _lengths, _pixels`: 4 tokens, an image, then up to `longest` more.

    The mask marks the second half of those; their number is drawn between longest / 4 and longest.
    """
    words = rng.integers(longest // 4, longest + 1, rows)
    size, side = cfg.vision.P + 4 + longest, cfg.vision.image_size
    tokens, mask = np.zeros((rows, size), np.int32), np.zeros((rows, size), bool)
    for i, n in enumerate(words):
        text = rng.integers(1, cfg.text.V - 1, n + 4)
        tokens[i, : cfg.vision.P + 4 + n] = [*text[:4], *[cfg.image_token_id] * cfg.vision.P, *text[4:]]
        mask[i, cfg.vision.P + 4 + n // 2 : cfg.vision.P + 4 + n] = True
    pixels = rng.standard_normal((rows, 1, side, side, 3)).astype(np.float32)
    lengths = (words + cfg.vision.P + 4).astype(np.int32)
    return {f"{name}_tokens": tokens, f"{name}_mask": mask, f"{name}_lengths": lengths, f"{name}_pixels": pixels}


def here(job: Callable[[], Any]) -> Side:
    """A side that runs in this process; the job must return only when its work is done (arrays on the host)."""

    def side() -> tuple[Any, float]:
        start = time.perf_counter()
        answer = job()
        return answer, time.perf_counter() - start

    return side


def compare(
    name: str,
    ours: Side,
    peer: Side,
    *,
    count: int,
    unit: str,
    agrees: Callable[[Any, Any], bool],
    repeats: int,
    floor: float | None = None,
) -> dict[str, Any]:
    """Warms both sides up, checks that they agree, times them in turn; the row of the result.

    Args:
      count: what one run makes, in the unit before "/s" (tokens, examples).
      agrees: whether both did the same work, from their first answers.
      floor: the most that the machine could do per second, when known.

    Raises:
      JobError: they do not agree.
    """
    if not agrees(ours()[0], peer()[0]):
        raise JobError(f"{name}: ours and the peer did not compute the same; their times cannot be compared")
    mine, theirs = [], []
    for _ in progress.bar(range(repeats), name):
        mine.append(ours()[1])
        theirs.append(peer()[1])
    return row(name, count / statistics.median(mine), count / statistics.median(theirs), unit, floor)


def peak_memory() -> int:
    """The largest resident memory of this process so far, bytes. ru_maxrss would include the parent that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def matmul_speed(size: int = 2048) -> float:
    """FLOP/s of one large float32 matrix product on the device: the best of ten."""
    x = jnp.ones((size, size), jnp.float32)
    product, best = jax.jit(jnp.matmul), float("inf")
    jax.block_until_ready(product(x, x))
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def row(name: str, ours: float, peer: float | None, unit: str, floor: float | None = None, **more: Any) -> dict:
    """A row of figures of which more is better; `more` are further columns (memory in bytes as memory_ours, ...)."""
    ratio = None if peer is None else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "floor": floor, **more}


def result(suite: str, rows: list[dict], about: dict[str, Any] | None = None) -> dict[str, Any]:
    """The result of a suite. about: the peer's versions and device, as its `load` answers."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{device.device_kind} ({device.platform}), {cores} CPU cores"
    if about:
        versions, where = versions | about["versions"], f"{where}; peer on {about['device']}"
    return {"suite": suite, "device": where, "versions": versions, "rows": rows}
