"""One row of bin/bench train, in a process of its own. It reads JSON lines on stdin and answers each with one."""

import json
import statistics
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.chips import chip_of
from vlm_mu_jax.training import metrics
from vlm_mu_jax.training.flops import mfu, train_step_flops
from vlm_mu_jax.training.loop import fit
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.settings import model_config
from vlm_mu_jax.training.spec import Observers, TrainingSpec
from vlm_mu_jax.training.trainable import FROZEN_VISION, Selection

LENGTHS = {"tiny": 48, "small": 160, "mid": 704, "7b": 1024}  # tokens of a row, the image's included
ANSWER = 0.25  # part of a row that carries the loss


def run(do: str, size: str, rows: int, repeats: int, seed: int) -> dict[str, Any]:
    """Trains, and says how fast: the median over windows of `metrics.EVERY` steps, the first one left out."""
    cfg = config(size)
    objective, selection = task(do, cfg)
    params = init_params(param_specs(cfg), jax.random.key(seed), jnp.dtype(cfg.dtype))
    streams = {name: stream(cfg, name, rows, LENGTHS[size], seed + i) for i, name in enumerate(objective.streams)}
    windows: list[float] = []
    steps = metrics.EVERY * (repeats + 1) + metrics.AHEAD
    spec = TrainingSpec(cfg, objective, OptimConfig(1e-6), steps, selection, seed=seed)
    watch = Observers(log=lambda row: windows.append(row["seconds"]))
    fit(spec, params, streams, donate=True, observers=watch)
    seconds, tokens = statistics.median(windows[1:]), len(streams) * rows * LENGTHS[size]
    batch = {name: jax.tree.map(lambda x: x[None], one[0]) for name, one in streams.items()}
    step_flops = train_step_flops(cfg, objective, selection, batch)
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    return {
        "tokens_per_second": tokens / seconds,
        "step_seconds": seconds,
        "step_flops": step_flops,
        "mfu": mfu(step_flops, seconds, [device]),
        "floor": None if chip is None else tokens * chip.flops / step_flops,
        "memory": (device.memory_stats() or {}).get("peak_bytes_in_use") or timing.peak_memory(),
        "batch": f"{len(streams)} x {rows} x {LENGTHS[size]}",
    }


def config(size: str) -> ModelConfig:
    """LLaVA-1.5 of that size, as this device would train it."""
    text, vision = random_models.SIZES[size]
    platform = jax.devices()[0].platform
    cfg = from_hf(
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "max_position_embeddings": 4096, **text},
            "vision_config": {"model_type": "clip_vision_model", **vision},
            "image_token_index": text["vocab_size"] - 1,
            "torch_dtype": "float32" if platform == "cpu" else "bfloat16",
        }
    )
    return model_config(cfg, {"remat": "full" if size == "7b" else "none", "attention": "auto"}, platform)


def task(name: str, cfg: ModelConfig) -> tuple[Any, Selection]:
    """Objective and selection of a row."""
    if name == "rmu":
        layer = max(cfg.text.L // 4 - 1, 0)  # 7 of 32, as published
        layers = list(range(max(layer - 2, 0), layer + 1))
        return make_objective("rmu", layer=layer), Selection.of(select=(), slices={"decoder/layers/wdown_LFD": layers})
    selection = Selection.of(select=(), lora_rank=16) if name == "npo-lora" else FROZEN_VISION
    return make_objective("npo"), selection


def stream(cfg: ModelConfig, name: str, rows: int, length: int, seed: int) -> Stream:
    """Drawn rows of one length with one image each. The last quarter of a row carries the loss."""
    rng = np.random.default_rng(seed)
    side, mask = cfg.vision.image_size, [i >= length * (1 - ANSWER) for i in range(length)]
    made = []
    for i in range(2 * rows):
        ids = rng.integers(1, cfg.text.V - 1, length)
        ids[4 : 4 + cfg.vision.P] = cfg.image_token_id
        pixels = rng.standard_normal((side, side, 3)).astype(np.float32)
        made.append(TrainRow(f"{name}{i}", tuple(ids.tolist()), tuple(mask), (pixels,)))
    return Stream(made, rows, seed, name=name)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
