"""Speed of ours beside other code on the same machine: same random weights, same inputs, in one process tree.

Each suite says in its module (vlm_mu_jax/cli/bench_SUITE.py) what it compares with. Both sides warm up, then run in
turn; the median counts. A row is only printed when both sides did the same work. `ratio` above 1 means that ours is
better; `floor` is the physical limit in the same unit, where one is known.

Example:
  bin/bench generate --size=small --json
"""

from importlib.util import find_spec

from absl import flags

from vlm_mu_jax.cli import command
from vlm_mu_jax.cli.bench_options import SIZE_NAMES

SUITES = [
    name
    for name in ("generate", "unlearn", "train", "attack", "guard", "convert", "plan")
    if find_spec(f"vlm_mu_jax.cli.bench_{name}")
]
_COLUMNS = ("name", "ours", "peer", "unit", "ratio", "floor")
_JSON = flags.DEFINE_bool("json", False, "print one JSON object instead of a table")
_SIZE = flags.DEFINE_enum("size", "small", SIZE_NAMES, "size of the random model; tiny only shows that it runs")
_ROWS = flags.DEFINE_integer("rows", 8, "prompts, or examples of each stream, per run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each side", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "draws weights and inputs")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints and inputs; a temporary one by default")


def main(argv: list[str]) -> None:
    import json
    from contextlib import nullcontext
    from importlib import import_module
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from vlm_mu_jax.cli.bench_options import Options

    suite = import_module(f"vlm_mu_jax.cli.bench_{argv[1]}")
    with TemporaryDirectory() if _WORKDIR.value is None else nullcontext(_WORKDIR.value) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        result = suite.measure(Options(Path(folder), _SIZE.value, _ROWS.value, _REPEATS.value, _SEED.value))
    print(json.dumps(result) if _JSON.value else table(result))


def table(result: dict) -> str:
    """One line per row; keys of a row beyond the common ones are further columns, "memory_*" in GiB."""
    rows = result["rows"]
    names = [*_COLUMNS, *dict.fromkeys(key for row in rows for key in row if key not in _COLUMNS)]
    cells = [names, *[[_cell(name, row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "  ".join(
            text.ljust(w) if name in ("name", "unit") else text.rjust(w)
            for name, text, w in zip(names, line, widths, strict=True)
        )
        for line in cells
    ]
    return "\n".join([f"{result['suite']} on {result['device']}", *lines])


def _cell(name: str, value: object) -> str:
    if name.startswith("memory") and isinstance(value, int | float):
        return f"{value / 2**30:.2f} GiB"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    command.run(main, __doc__, actions=SUITES)
