"""bin/bench accelerator: one prepared run on whatever device is here, checked first, then measured.

First it checks that the device computes the right thing (`accelerator_checks`). Then it runs the programs that bin/plan
plans, with random weights: decoding of 1 and 32 prompts, a block of the one-word search, RMU on three layers' slices,
NPO with LoRA, NPO on all weights. A program whose arguments do not fit is left out, with the reason. Nothing new starts
when --minutes are over. After every row WORKDIR/accelerator.md and accelerator.json are written anew: a run that is cut
short leaves its table.

seconds            per run, the median
tokens_per_second  positions of the rows, or new tokens
mfu                analytic FLOPs over the chips' dense bfloat16 peak; on a CPU, over one large float32 product
bandwidth          of decoding: bytes of weights read per second, over the chips'
planned_gib        arguments, temporaries and outputs of the compiled program
peak_gib           the device's own count, the largest since the start
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.benchmark.random_models import SIZES
from vlm_mu_jax.benchmark.suites.accelerator_checks import checks
from vlm_mu_jax.benchmark.suites.filled import filled
from vlm_mu_jax.files.json_file import write_json
from vlm_mu_jax.files.outputs import complete_file
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.parallel.chips import Chip, chip_of
from vlm_mu_jax.planning.compilation import bytes_per_chip
from vlm_mu_jax.planning.jobs import JOBS, NEW_TOKENS, PlannedJob
from vlm_mu_jax.training.settings import checked, defaults, model_config

GIB = 2**30
ROWS = {"tiny": 2, "small": 4, "mid": 8, "7b": 8}  # of every stream
LENGTHS = {"tiny": 64, "small": 256, "mid": 1024, "7b": 2048}  # tokens of a training row
RESERVE = 0.05  # of a device's memory, which arguments leave free


@dataclasses.dataclass(frozen=True)
class MeasuredProgram:
    """One program to run. what: a key of `planning.jobs.JOBS`. tokens: made or read by one run."""

    name: str
    what: str
    settings: dict[str, Any]
    tokens: int


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """The checks, then a row for every program."""
    begin, devices = time.monotonic(), jax.devices()
    cfg = bench_config(options.size, devices[0].platform)
    report = _Report(options.workdir, options.size)
    report.checks = checks(options.seed)
    report.write()
    peak = timing.matmul_speed() if chip_of(devices[0].device_kind) is None else None
    for one in programs(cfg, options.size):
        if options.minutes and (time.monotonic() - begin) / 60 > options.minutes:
            report.rows.append({"name": one.name, "left_out": f"the {options.minutes:g} minutes were over"})
        else:
            report.rows.append({"name": one.name} | _run(one, cfg, devices, options, peak))
        report.write()
    return timing.result("accelerator", [*report.checks, *report.rows])


def bench_config(size: str, platform: str) -> ModelConfig:
    """A LLaVA of a size of `random_models.SIZES`, with the attention kernel of the platform."""
    text, vision = SIZES[size]
    vision = {"model_type": "clip_vision_model", **vision}
    text = {"model_type": "llama", "max_position_embeddings": 4096, **text}
    config = {"model_type": "llava", "text_config": text, "vision_config": vision, "image_token_index": 2}
    dtype = "float32" if platform == "cpu" else "bfloat16"
    cfg = dataclasses.replace(from_hf({**config, "torch_dtype": dtype}), dtype=dtype)
    return model_config(cfg, {"remat": "full", "attention": "auto"}, platform)


def programs(cfg: ModelConfig, size: str) -> list[MeasuredProgram]:
    """Small programs first, so that the device's peak memory belongs to the last one that ran."""
    layers = tuple(range(max(cfg.text.L // 4 - 2, 0), cfg.text.L // 4 + 1))
    slices = {"select": (), "slices": {"decoder/layers/wdown_LFD": layers}}
    rmu = _training("rmu", size, slices, layer=layers[-1])
    lora = _training("npo", size, {"select": (), "lora_rank": 16})
    position = ROWS[size] * LENGTHS[size]
    return [
        MeasuredProgram("decode, 1 prompt", "decode", _asking(1), NEW_TOKENS),
        MeasuredProgram("decode, 32 prompts", "decode", _asking(32), 32 * NEW_TOKENS),
        MeasuredProgram("word search, a block", "attack", _asking(1), 0),
        MeasuredProgram("RMU, slices", "train", rmu, 2 * position),
        MeasuredProgram("NPO, LoRA", "train", lora, 2 * position),
        MeasuredProgram("NPO, all weights", "train", _training("npo", size, {}), 2 * position),
    ]


def _training(objective: str, size: str, train: dict[str, Any], layer: int | None = None) -> dict[str, Any]:
    config = defaults(objective, layer=layer)
    config.train.update(train)
    config.data.max_length = LENGTHS[size]
    config.update(batch_size=ROWS[size], steps=100)
    config.mesh.update(data=1, fsdp=-1)
    return checked(config)


def _asking(rows: int) -> dict[str, Any]:
    config = defaults("npo")
    config.batch_size = rows
    config.mesh.update(data=1, fsdp=1, tensor=-1)
    return checked(config)


def _run(
    one: MeasuredProgram, cfg: ModelConfig, devices: list[Any], options: BenchmarkOptions, peak: float | None
) -> dict[str, Any]:
    """The columns of one program, or why it was left out."""
    job, limit = JOBS[one.what](one.settings, cfg, devices), _memory(devices[0])
    arguments = bytes_per_chip(job.args)
    if limit and arguments > (1 - RESERVE) * limit:
        return {"left_out": f"its arguments take {arguments / GIB:.1f} of {limit / GIB:.1f} GiB"}
    try:
        compiled = job.jitted.lower(*job.args, **job.kwargs).compile()
        seconds = _seconds(compiled, job, options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"left_out": "it does not fit: " + " ".join(str(error).split())[:120]}
    memory, chip = compiled.memory_analysis(), chip_of(devices[0].device_kind)
    rate = len(devices) * chip.flops if chip else peak
    planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return {
        "seconds": seconds,
        "tokens_per_second": one.tokens / seconds if one.tokens else None,
        "mfu": job.flops / seconds / rate,
        "bandwidth": _bandwidth(job, seconds, len(devices), chip) if one.what == "decode" else None,
        "planned_gib": (planned - memory.alias_size_in_bytes) / GIB,
        "peak_gib": (devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / GIB or None,
    }


def _seconds(compiled: Any, job: PlannedJob, options: BenchmarkOptions) -> float:
    """Median seconds of a run. A training step's first argument is its state, which the run gives back."""
    import statistics

    arguments = list(filled(job.args, options.seed))
    found = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        out = jax.block_until_ready(compiled(*arguments))
        found.append(time.perf_counter() - start)
        if job.unit == "step":
            arguments[0] = out[0]
    return statistics.median(found[1:])


def _memory(device: Any) -> int | None:
    return (device.memory_stats() or {}).get("bytes_limit")


def _bandwidth(job: PlannedJob, seconds: float, devices: int, chip: Chip | None) -> float | None:
    """Share of the chips' bandwidth: every new token reads the decoder's weights once."""
    if chip is None:
        return None
    weights = sum(x.size * x.dtype.itemsize for path, x in flatten(job.args[0]).items() if path.startswith("decoder"))
    return weights * NEW_TOKENS / seconds / (devices * chip.bandwidth)


class _Report:
    """What was found so far, and its files."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size = folder, size
        self.checks: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def write(self) -> None:
        found = timing.result("accelerator", [*self.checks, *self.rows])
        write_json(self.folder / "accelerator.json", found)
        lines = [f"`bin/bench accelerator --size={self.size}` on {found['device']}, jax {found['versions']['jax']}", ""]
        lines += _table(self.checks, ("name", "holds", "found", "limit"))
        lines += _table(self.rows, ("name", *COLUMNS, "left_out"))
        with complete_file(self.folder / "accelerator.md") as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


COLUMNS = ("seconds", "tokens_per_second", "mfu", "bandwidth", "planned_gib", "peak_gib")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return [*lines, *(f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows), ""]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
