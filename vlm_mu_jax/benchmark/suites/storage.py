"""bin/bench storage: a model's weights to disk and back, against Orbax.

Row `save`: a tree in memory becomes `params/`. Row `load`: `params/` as ours wrote it becomes arrays on the device,
read by both sides. Ours is `storage.stored_params`; the peer is Orbax's `PyTreeCheckpointHandler`, uncompressed.
Saving ends when the bytes are on the disk. Of the size 7b four layers are taken, so that the tree (2.1 GB) and what is
read back fit into memory.
"""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import Params, Specs, flatten, unflatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage import stored_params

_MOST_LAYERS = 4


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `save` and `load`, in GB/s."""
    text, _ = random_models.SIZES[options.size]
    text = text | {"num_hidden_layers": min(text["num_hidden_layers"], _MOST_LAYERS)}
    specs = param_specs(from_hf({"model_type": "llama", **text}))
    params = _random(specs, options.seed)
    gigabytes = sum(leaf.nbytes for leaf in flatten(params).values()) / 1e9
    ours, theirs = options.workdir / "ours", options.workdir / "orbax"
    common = {"count": gigabytes, "unit": "GB/s", "repeats": options.repeats}
    try:
        save = timing.compare(
            "save",
            _saving(ours, lambda: stored_params.save(ours, params, specs)),
            _saving(theirs, lambda: _orbax_save(theirs, params)),
            agrees=lambda *_: True,  # `load` compares what was saved
            **common,
        )
        load = timing.compare(
            "load",
            timing.here(lambda: jax.block_until_ready(stored_params.load(ours, specs))),
            timing.here(lambda: jax.block_until_ready(_orbax_load(ours, specs))),
            agrees=lambda a, b: _same(a, params) and _same(b, params),
            **common,
        )
    finally:
        for folder in (ours, theirs):
            shutil.rmtree(folder, ignore_errors=True)
    return timing.result("storage", [row | {"gigabytes": gigabytes} for row in (save, load)])


def _random(specs: Specs, seed: int) -> Params:
    """bfloat16 arrays that repeat ten million drawn numbers."""
    bits = np.random.default_rng(seed).integers(0, 2**16, 10_000_000, np.uint16)
    numbers = ((bits & 0x87FF) | (0x70 << 7)).view(ml_dtypes.bfloat16)
    flat = flatten(specs)
    return unflatten(
        {path: np.resize(numbers, math.prod(spec.shape)).reshape(spec.shape) for path, spec in flat.items()}
    )


def _saving(folder: Path, save: Any) -> timing.Side:
    def side() -> tuple[None, float]:
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()  # what was left to the system before must not slow this one
        start = time.perf_counter()
        save()
        os.sync()
        return None, time.perf_counter() - start

    return side


def _orbax_save(folder: Path, params: Params) -> None:
    import orbax.checkpoint as ocp

    writer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
    writer.save(resolved(folder), args=ocp.args.PyTreeSave(params))


def _orbax_load(folder: Path, specs: Specs) -> Params:
    import orbax.checkpoint as ocp

    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = unflatten(
        {
            path: jax.ShapeDtypeStruct(spec.shape, ml_dtypes.bfloat16, sharding=place)
            for path, spec in flatten(specs).items()
        }
    )
    how = ocp.checkpoint_utils.construct_restore_args(like)
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return reader.restore(resolved(folder), args=ocp.args.PyTreeRestore(item=like, restore_args=how))


def _same(restored: Params, params: Params) -> bool:
    pairs = zip(jax.tree.leaves(restored), jax.tree.leaves(params), strict=True)
    return all(np.array_equal(np.asarray(a).view(np.uint16), b.view(np.uint16)) for a, b in pairs)
