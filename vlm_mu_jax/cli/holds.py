"""Says what a model's safety survives: one table, each row beside its control.

Rows: the questions as they stand, as text alone, under words searched for this model in both directions, paraphrased,
with a begun answer, under a GCG suffix, with an image changed by gradient, with weights in 8 and 4 bits, pruned, and
fine-tuned on a few forgotten examples. A row that cannot be made says why. With --baseline every rate is tested against
the same row of the model before. --checkpoint may be a folder that bin/convert_hf has exported: it is loaded as a
server would, and the result names the hash of each file.

Writes WORKDIR/holds.json, which bin/report can show. A killed run goes on where it stopped. --page writes a Markdown
page of the finished runs named by --runs, and measures nothing.

Example:
  bin/holds --checkpoint=runs/npo --data=runs/mini/data --workdir=runs/holds_npo --name=npo \\
      --baseline=runs/holds_sft --forget_answers=runs/forget/answers/unsafe_before.jsonl
  bin/holds --runs=runs/holds_sft,runs/holds_npo --page=docs/holds.md
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import command, judge_flags, mesh_flag, shared_flags

if TYPE_CHECKING:
    from vlm_mu_jax.stress.options import HoldsOptions

flags.adopt_module_key_flags(judge_flags)
flags.adopt_module_key_flags(mesh_flag)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder, or an exported Hugging Face folder")
_DATA = flags.DEFINE_string("data", None, "folder with train.json, test.json and what else bin/eval reads")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for rows, answers, attacks and holds.json")
_NAME = flags.DEFINE_string("name", None, "how the table calls the model (default: the checkpoint's name)")
_BASELINE = flags.DEFINE_string("baseline", None, "workdir of this command on the model before: tests against it")
_GUARD = flags.DEFINE_string("guard", None, "guard folder of bin/guard: it steers the answers of every row")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "the model before its safety tuning, for over-refusal words; see bin/attack"
)
_ROWS = flags.DEFINE_list("rows", [], "only these rows, such as words,int4; all of them without it")
_QUESTIONS = flags.DEFINE_integer("questions", 96, "at most so many questions of each kind in a row", lower_bound=1)
_SEARCH = flags.DEFINE_integer("search_questions", 24, "at most so many for the searches", lower_bound=1)
_SHOTS = flags.DEFINE_integer("shots", 3, "words, suffixes or beginnings that a question is tried with", lower_bound=1)
_SUFFIX_STEPS = flags.DEFINE_integer("suffix_steps", 20, "steps of the GCG search", lower_bound=1)
_PIXEL_STEPS = flags.DEFINE_integer("pixel_steps", 20, "steps of the search for an image", lower_bound=1)
_PRUNED = flags.DEFINE_float("pruned", 0.2, "share of the weights that pruning sets to zero")
_ANSWERS = flags.DEFINE_string(
    "forget_answers", None, "judged answers of the model before unlearning to train.json: for relearning and depth"
)
_FORGOTTEN = flags.DEFINE_integer("forgotten", 16, "forgotten examples that relearning trains on", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "updates of relearning", lower_bound=1)
_DEPTH = flags.DEFINE_integer("depth", 48, "requests of each kind that the depth is read on; 0: none", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "draws the questions and the controls")
_BATCH = shared_flags.batch_size(32)
_TOKENS = shared_flags.max_new_tokens(64)
_PAGE = flags.DEFINE_string("page", None, "Markdown file to write of the finished runs in --runs")
_RUNS = flags.DEFINE_list("runs", [], "--page: workdirs of this command, in the order of the columns")


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.files import outputs
    from vlm_mu_jax.stress import tables
    from vlm_mu_jax.stress.holds import holds, stored_result

    if bool(_PAGE.value) != bool(_RUNS.value):
        raise InputError("--page and --runs belong together: the file to write, and the finished runs it shows")
    if _PAGE.value:
        page = outputs.check_writable(_PAGE.value)
        outputs.write_text(page, tables.page([stored_result(run).content for run in _RUNS.value]))
        print(f"wrote {page}")
        return
    given = {"checkpoint": _CHECKPOINT.value, "data": _DATA.value, "workdir": _WORKDIR.value}
    if missing := [f"--{name}" for name, value in given.items() if not value]:
        raise InputError(
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} required; see bin/holds --help"
        )
    outputs.check_writable(Path(_WORKDIR.value).expanduser() / "holds.json")
    options, judge = _options_from_flags(), judge_flags.options_from_flags()
    sizes = mesh_flag.sizes_from_flags()
    command.prepare_jax(_WORKDIR.value)
    with mesh_flag.placed(sizes, _BATCH.value, _TOKENS.value):
        found = holds(
            _CHECKPOINT.value,
            _DATA.value,
            options,
            baseline=_BASELINE.value,
            guard=_GUARD.value,
            judge=judge,
            reference=_REFERENCE.value,
            workdir=_WORKDIR.value,
            progress=progress.bar,
        )
    print(found.table())
    print(f"wrote {Path(_WORKDIR.value) / 'holds.json'}")


def _options_from_flags() -> "HoldsOptions":
    """The flags as `HoldsOptions`."""
    from vlm_mu_jax.attacks.methods.pgd import PixelOptions
    from vlm_mu_jax.attacks.methods.suffix import SuffixOptions
    from vlm_mu_jax.stress.options import ROWS, HoldsOptions

    return HoldsOptions(
        name=_NAME.value or Path(_CHECKPOINT.value).name,
        rows=tuple(_ROWS.value) or ROWS,
        questions=_QUESTIONS.value,
        search_questions=_SEARCH.value,
        shots=_SHOTS.value,
        suffix=SuffixOptions(steps=_SUFFIX_STEPS.value, candidates=64),
        pixels=PixelOptions(steps=_PIXEL_STEPS.value),
        pruned=_PRUNED.value,
        forget_answers=_ANSWERS.value,
        forgotten=_FORGOTTEN.value,
        steps=_STEPS.value,
        depth=_DEPTH.value,
        seed=_SEED.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
    )


if __name__ == "__main__":
    command.run(main, __doc__)
