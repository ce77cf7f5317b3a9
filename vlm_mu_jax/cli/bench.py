"""Times our code beside other code on the same machine: same random weights, same inputs, in one process tree.

Each suite says in its module (vlm_mu_jax/benchmark/suites/) what it compares with. Both sides warm up, then run in
turn; the median counts. A row is only printed when both sides did the same work. `ratio` above 1 means that ours is
better; `floor` is the physical limit in the same unit, where one is known.

Example:
  bin/bench generate --size=small --json
  bin/bench attack --size=mid --family=qwen2.5-vl
  bin/bench weights --weights=SmolLM2-135M.gguf --rows=4
  bin/bench cold --weights=SmolLM2-135M.gguf --repeats=1
  bin/bench accelerator --size=7b --minutes=8 --workdir=runs/accelerator
"""

from absl import flags

from vlm_mu_jax.benchmark import SUITES
from vlm_mu_jax.benchmark.options import FAMILY_NAMES, SIZE_NAMES
from vlm_mu_jax.cli import command, shared_flags

_JSON = shared_flags.json()
_SIZE = flags.DEFINE_enum("size", "small", SIZE_NAMES, "size of the random model; tiny only shows that it runs")
_FAMILY = flags.DEFINE_enum("family", "llava", FAMILY_NAMES, "family of the model of generate, unlearn and attack")
_ROWS = flags.DEFINE_integer("rows", 8, "prompts, or examples of each stream, per run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each side", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "draws weights and inputs")
_MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "accelerator: start nothing new after these; 0 is no limit", lower_bound=0
)
_WEIGHTS = flags.DEFINE_string("weights", None, "weights and cold: GGUF file of a real language model")
_LLAMA_PYTHON = flags.DEFINE_string(
    "llama_python", None, "weights: Python of an environment with llama-cpp-python; without it llama.cpp is left out"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints and inputs; a temporary one by default")


def main(argv: list[str]) -> None:
    import json
    from contextlib import nullcontext
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from vlm_mu_jax.benchmark import BenchmarkOptions, measure, table

    with TemporaryDirectory() if _WORKDIR.value is None else nullcontext(_WORKDIR.value) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        options = BenchmarkOptions(
            Path(folder),
            _SIZE.value,
            _ROWS.value,
            _REPEATS.value,
            _SEED.value,
            _FAMILY.value,
            _MINUTES.value,
            None if _WEIGHTS.value is None else Path(_WEIGHTS.value),
            None if _LLAMA_PYTHON.value is None else Path(_LLAMA_PYTHON.value),
        )
        result = measure(argv[1], options)
    print(json.dumps(result) if _JSON.value else table.text(result))


if __name__ == "__main__":
    command.run(main, __doc__, actions=tuple(SUITES))
