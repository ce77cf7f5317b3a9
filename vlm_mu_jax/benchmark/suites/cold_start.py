"""bin/bench cold: seconds from the start of a process to its first tokens, on an empty and on a warm compile cache.

empty, warm   the real language model of --weights, converted once before; the median of --repeats fresh processes

Columns, in seconds, less is better:
  ours           from the start of the process until the first tokens of `generate.stream` are there
  import, load   imports of the package and its libraries; reading the model and its tokenizer
  compile        XLA compiling, or reading what it compiled before
  rest           tracing, the prompt and the first tokens
There is no peer, and the other suites' rule that more is better does not hold here.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm_mu_jax import progress
from vlm_mu_jax.benchmark import timing
from vlm_mu_jax.benchmark.options import BenchmarkOptions
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.conversion.importer import ConvertOptions
from vlm_mu_jax.errors import InputError, JobError

WORKER = [sys.executable, "-m", "vlm_mu_jax.benchmark.cold_worker"]


def measure(options: BenchmarkOptions) -> dict[str, Any]:
    """Rows `empty` and `warm`."""
    if options.weights is None:
        raise InputError("bin/bench cold needs --weights=FILE.gguf, the model that is started")
    folder = options.workdir / "float32"
    convert(options.weights, folder, ConvertOptions(dtype="float32", overwrite=True))
    started: dict[str, list[dict]] = {"empty": [], "warm": []}
    for _ in progress.bar(range(options.repeats), "cold"):
        with TemporaryDirectory() as cache:
            for runs in started.values():  # the first run fills the cache of the second
                runs.append(start(folder, Path(cache)))
    if started["empty"][0]["tokens"] != started["warm"][0]["tokens"]:
        raise JobError("cold: the processes made different tokens; their times cannot be compared")
    return timing.result("cold", [_row(name, runs) for name, runs in started.items()])


def start(folder: Path, cache: Path) -> dict[str, Any]:
    """Seconds of one fresh process, by part, and its tokens."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    begin = time.time()
    done = subprocess.run([*WORKER, str(folder)], env=os.environ | kept, capture_output=True, text=True)
    if done.returncode:
        raise JobError(f"cold: the started process failed: {done.stderr.strip().splitlines()[-1]}")
    seen = json.loads(done.stdout)
    return {
        "whole": seen["first"] - begin,
        "import": seen["imported"] - begin,
        "load": seen["loaded"] - seen["imported"],
        "compile": seen["compiled"],
        "rest": seen["first"] - seen["loaded"] - seen["compiled"],
        "tokens": seen["tokens"],
    }


def _row(name: str, runs: list[dict]) -> dict[str, Any]:
    middle = {part: statistics.median(run[part] for run in runs) for part in runs[0] if part != "tokens"}
    return timing.row(name, middle.pop("whole"), None, "s", **middle)
