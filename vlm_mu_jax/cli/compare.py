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

from collections.abc import Mapping
from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import command, shared_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.miniature import story
from vlm_mu_jax.training.recipes import RECIPES, Recipe

_RUNS = flags.DEFINE_list("runs", [], "finished folders of bin/quickstart, one per seed")
_SEEDS = flags.DEFINE_list("seeds", [], "seeds to run bin/quickstart for, in OUT/seedS/quickstart")
_OUT = flags.DEFINE_string("out", None, "folder of models, answers and the table", required=True)
_ONLY = flags.DEFINE_list("only", [], "train and show these recipes alone; `none` trains none")
_RELEARN = flags.DEFINE_list("relearn", [], "recipes whose models are attacked by fine-tuning as well")
_PAGE = flags.DEFINE_string("page", None, "Markdown file whose blocks <!-- table: NAME --> ... <!-- end --> are filled")
_RECORD = flags.DEFINE_string("record", None, "folder for the files that the tables are made of, one folder per seed")
_WORLD = flags.DEFINE_enum("world", "nonsense", list(story.WORLDS), "whose quickstarts: nonsense words, or English")
_GGUF = shared_flags.gguf()

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

    from vlm_mu_jax.files.folders import only_writer
    from vlm_mu_jax.miniature import recipe_runs
    from vlm_mu_jax.miniature.english import weights
    from vlm_mu_jax.reporting import results_page

    gguf = weights.of_world(_WORLD.value, _GGUF.value) if _GGUF.value else None
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / ".lock", out, inherited=True):
        runs = recipe_runs.quickstarts(
            _RUNS.value, map(int, _SEEDS.value), out, _WORLD.value, gguf=gguf, say=command.say
        )
        tables = {}
        if chosen:
            tables["recipes"] = _recipes(chosen, runs, out)
        if attacked:
            tables["relearning"] = _relearn(attacked, runs, out)
        if page is not None:
            results_page.fill_file(page, runs, tables, _WORLD.value)
            print(f"wrote {page}")
        if _RECORD.value:
            results_page.record(runs, Path(_RECORD.value).expanduser(), two_judges=_WORLD.value != "nonsense")
            print(f"wrote {_RECORD.value}")


def _chosen(flag: str, names: list[str]) -> list[Recipe]:
    known = {recipe.name: recipe for recipe in RECIPES}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--{flag}: {', '.join(unknown)} unknown; use some of {', '.join(known)}")
    return [known[name] for name in names]


def _recipes(chosen: list[Recipe], runs: Mapping[int, Path], out: Path) -> str:
    """Trains and asks every recipe, and writes the comparison. Returns the page's table."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation.results import comparison
    from vlm_mu_jax.miniature import recipe_runs

    models = recipe_runs.trained_models(chosen, runs, out, say=command.say, progress=progress.bar)
    tests = comparison.paired_tests(models)
    comparison.write(out, models, tests)
    table, found = comparison.markdown(models), comparison.sentence(models, tests)
    print(f"{table}\n{found}")
    return f"{table}\n\nSeeds {' / '.join(map(str, runs))}. {found}"


def _relearn(attacked: list[Recipe], runs: Mapping[int, Path], out: Path) -> str:
    """Attacks every trained model twice by fine-tuning. Returns the page's table."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.miniature import recipe_runs
    from vlm_mu_jax.reporting import relearning

    table = relearning.write_over_seeds(out, recipe_runs.relearning_curves(attacked, runs, out, progress=progress.bar))
    print(table)
    return f"{table}\n\nSeeds {' / '.join(map(str, runs))}."


if __name__ == "__main__":
    command.run(main, __doc__)
