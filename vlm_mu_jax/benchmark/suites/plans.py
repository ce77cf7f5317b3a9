"""bin/bench plan: what bin/plan says of the shipped configs. Nothing runs, so there is no peer.

Columns:
  ours          seconds per step at the roofline, the least that peak rates allow
  floor         the same if all chips did nothing but the model's own FLOPs at their peak
  mfu           floor / ours, that is at the roofline
  memory_peak   what the step needs per chip, beside memory_chip, what a chip has
  tokens        of generation, guarded generation and the word search: per second on all chips, at the roofline
  per_turn      their collectives per forward pass, by kind: number x mean size

A plan that does not fit has no time. --size=7b plans LLaVA-1.5-7B and 13B for the topologies of docs/scaling.md. That
takes minutes each, and plans in WORKDIR/plans.jsonl are not made again. Other sizes plan a small random model for four
chips.
"""

import json
from typing import Any

from vlm_mu_jax import progress
from vlm_mu_jax.benchmark import random_models, timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.planning.jobs import model_config
from vlm_mu_jax.planning.plan import plan
from vlm_mu_jax.planning.text import per_turn
from vlm_mu_jax.planning.topology import compiler, target
from vlm_mu_jax.training import settings
from vlm_mu_jax.training.config_files import load_config

# variant of configs/llava15_unlearn.py -> (topology, what differs from it), of docs/scaling.md. A batch has a row
# per chip at least.
_V5E_16, _V5E_64 = ("v5e:4x4", {"batch_size": 16}), ("v5e:8x8", {"batch_size": 64})
_V5P_8, _H100, _H200 = ("v5p:2x2x1", {}), ("gpu:8xH100", {}), ("gpu:1xH200", {})
_FULL = (_V5E_16, _V5E_64, _V5P_8, _H100, _H200)
_ONE_BY_ONE = {"accumulate": 8}
PLANS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "7b_npo": _FULL,
    "7b_npo_lora": (_V5E_16, _V5P_8, _H100, _H200, ("gpu:1xL4", _ONE_BY_ONE)),
    "7b_rmu": _FULL,
    "7b_rmu_lora": (_V5E_16, _V5P_8, _H200, ("gpu:1xL4", _ONE_BY_ONE)),
    "13b_npo": _FULL,
    "13b_npo_lora": (_V5E_16, _V5P_8, _H200),
    "13b_rmu": (_V5E_16, _V5P_8, _H200),
    "13b_rmu_lora": (_V5E_16, _V5P_8, _H200),
}
# The model's answers: program -> the same for each, on a mesh that splits the weights alone
ANSWERING = ("decode", "guard", "attack")
_SLICES = ("v5e:2x4", "v5p:2x2x1", "gpu:8xH100", "gpu:1xH200")
_SPLIT = {"batch_size": 16, "mesh": {"data": 1, "fsdp": 1, "tensor": -1}}
_SMALL = {"7b_npo_lora": (("v5e:2x2", {"accumulate": 2}),)}


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """One row per config and topology."""
    plans = PLANS if options.size == "7b" else _SMALL
    todo = [("train", variant, *where) for variant, topologies in plans.items() for where in topologies]
    if options.size == "7b":
        whats = [(what, size, topology) for what in ANSWERING for size in ("7b", "13b") for topology in _SLICES]
        todo += [(what, f"{size}_npo", topology, _SPLIT) for what, size, topology in whats]
    kept = options.workdir / "plans.jsonl"
    rows = {row["name"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    for what, variant, topology, changes in progress.bar(todo, "plans", len(todo)):
        name = f"{variant} {topology}" if what == "train" else f"{variant.partition('_')[0]} {what} {topology}"
        if name in rows:
            continue
        chosen = _settings(variant, changes)
        if options.size != "7b":
            _shrink(chosen, options)
        found = plan(what, chosen, model_config(chosen), target(topology), advise=False, tell=lambda line: None)
        rows[name] = row(name, found)
        with open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")
    result = timing.result("plan", list(rows.values()))
    return {**result, "device": f"no device: compiled ahead of time with {compiler()}"}


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What `planning.plan.plan` found, as a row of bin/bench."""
    seconds = mfu = floor = None
    if found["fits"]:
        seconds, mfu = found["roofline_seconds"], found["mfu_at_roofline"]
        floor = seconds * mfu
    more = {}
    if "tokens_per_second" in found:
        more = {"tokens": found["tokens_per_second"], "per_turn": per_turn(found), "about": found["about"]}
    return timing.row(
        name,
        seconds,
        None,
        f"s/{found['unit']}",
        floor,
        mfu=mfu,
        bound=found.get("bound"),
        fits=found["fits"],
        memory_peak=found["peak_bytes_per_chip"],
        memory_chip=found["hbm_bytes"],
        compiled=found["basis"].startswith("compiled"),
        **more,
    )


def _settings(variant: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {**settings.checked(load_config(f"llava15_unlearn:{variant}")), **changes}


def _shrink(chosen: dict[str, Any], options: BenchmarkOptions) -> None:
    """The same run with a random model's sizes and short rows."""
    text, vision = random_models.SIZES[options.size]
    config = {
        "model_type": "llava",
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": vision,
        "image_token_index": text["vocab_size"] - 1,
    }
    (options.workdir / "config.json").write_text(json.dumps(config))
    chosen["model"] = {**chosen["model"], "init": str(options.workdir)}
    chosen["data"] = {**chosen["data"], "max_length": 128}
