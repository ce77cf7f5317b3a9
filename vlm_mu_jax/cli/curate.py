"""Makes the forget and retain sets of an unlearning run from safety data, models' answers and general data.

First every model answers the unsafe requests: bin/generate over the data file. Then, here, a judge that sees question
and image picks the most harmful answer to each request; refusals, irrelevant and unjudged answers are never picked, and
everything dropped is counted. Safe records, filled up with a seeded sample of general ones to --retain_size, are what
the model must keep. OUT gets requests.json, forget.json, retain.json, forget_answers.jsonl, and manifest.json: counts
and hashes. bin/train reads it with config.data.root=OUT, data.safety=requests.json, data.general=retain.json and
data.forget_answers=forget_answers.jsonl. Without --candidates the requests alone are to be forgotten: set
data.forget_target=query instead of the answers. docs/data.md has the whole way.

Example:
  bin/curate --safety=runs/mini/data/train.json --candidates=runs/answers/base.jsonl --judge=oracle \\
      --general=runs/mini/data/llava_mix.json --retain_size=400 --out=runs/curated
  bin/curate --check=train.jsonl --checkpoint=runs/base
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import command, judge_flags, mesh_flag, shared_flags
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.paths import resolved

if TYPE_CHECKING:
    from vlm_mu_jax.data.records import Record
    from vlm_mu_jax.evaluation.curation.curate import CurateOptions, Score

_VERDICT_TOKENS = 256  # of a judging model, for the estimate of what fits

_SAFETY = flags.DEFINE_string("safety", None, "VLGuard file, or own data of any known shape: unsafe and safe records")
_CANDIDATES = flags.DEFINE_list("candidates", [], "answers files of bin/generate --data, one per model, with commas")
_GENERAL = flags.DEFINE_string("general", None, "LLaVA file of general data that fills up the retain set")
_RETAIN = flags.DEFINE_integer("retain_size", None, "records to retain; all safe and general ones without it", 1)
_OUT = flags.DEFINE_string("out", None, "folder to write")
_CHECK = flags.DEFINE_string(
    "check",
    None,
    "only look at this data file: what it is, what is wrong, its first rows as --checkpoint will see them",
)
_COLUMNS = shared_flags.columns("--check: ")
_SEED = flags.DEFINE_integer("seed", 0, "draws the general records, their order and the coreset")
_SAFE_IMAGES = flags.DEFINE_bool("unsafe_on_safe_images", False, "also forget the unsafe requests about safe images")
_SIZE = flags.DEFINE_integer("coreset_size", None, "forget only so many records, picked by --coreset", 1)
_CORESET = flags.DEFINE_enum(
    "coreset", "random", ["random", "loss", "gradient_norm"], "random, or the highest scores under --checkpoint"
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder that scores the coreset: the one to be unlearned")
for _flag in vars(judge_flags).values():
    if isinstance(_flag, flags.FlagHolder) and _flag.name.startswith("judge"):
        flags.declare_key_flag(_flag.name)
flags.adopt_module_key_flags(mesh_flag)


def main(argv: list[str]) -> int:
    from vlm_mu_jax import progress
    from vlm_mu_jax.data import curated
    from vlm_mu_jax.evaluation.curation.curate import curate
    from vlm_mu_jax.files import folders
    from vlm_mu_jax.storage import model_folder

    if _CHECK.value:
        return check(_CHECK.value, _CHECKPOINT.value, _COLUMNS.value)
    options, judge = _options_from_flags(), judge_flags.options_from_flags()
    folders.check_replaceable(_OUT.value, curated.MARKER)
    out = resolved(_OUT.value)
    if _CHECKPOINT.value or judge.checkpoint:  # else nothing is compiled
        model_folder.find(_CHECKPOINT.value or judge.checkpoint)
        command.prepare_jax(out)
    sizes = mesh_flag.sizes_from_flags()
    with mesh_flag.placed(sizes, judge.batch_size, _VERDICT_TOKENS):  # the judge
        found = curate(
            _SAFETY.value,
            _GENERAL.value,
            candidates=_CANDIDATES.value,
            judge=judge,
            options=options,
            score=_scorer(_CHECKPOINT.value, _CORESET.value, sizes) if _CHECKPOINT.value else None,
            workdir=out.with_name(f"{out.name}.judging"),  # beside OUT, so that a second try does not ask again
            progress=progress.bar,
        )
    found.write(out)
    print(found.table())
    print(f"wrote {_OUT.value}")
    return 0


def check(path: str, checkpoint: str | None = None, columns: str = "") -> int:
    """Prints what a data file holds; 0 when every row is good, else 2.

    checkpoint: model folder whose tokenizer and chat template the rows are shown with.
    """
    import sys

    from vlm_mu_jax.data.inspection import inspect
    from vlm_mu_jax.data.questions import parse_columns
    from vlm_mu_jax.storage import model_folder

    processor = None if checkpoint is None else model_folder.read_processor(model_folder.find(checkpoint))
    found = inspect(path, processor, columns=parse_columns(columns))
    print(found.text(sys.stdout.isatty()))
    return 0 if found.good else 2


def _scorer(checkpoint: str, by: str, sizes: tuple[int, int, int] | None) -> "Score":
    """Scores the forget records under the model to be unlearned, which is loaded when they are there."""
    from vlm_mu_jax import progress
    from vlm_mu_jax.storage import model_folder
    from vlm_mu_jax.training import forget_scores

    folder = model_folder.find(checkpoint)

    def score(records: "Sequence[Record]", root: Path) -> dict[str, float]:
        with mesh_flag.placed(sizes, rows=1, new_tokens=0, training=1.0 if by == "gradient_norm" else 0.0):
            model = model_folder.load(folder)
        return forget_scores.score(model, records, root, by, progress=progress.bar)

    return score


def _options_from_flags() -> "CurateOptions":
    """The flags as `CurateOptions`. Raises InputError for flags that do not go together."""
    from vlm_mu_jax.evaluation.curation.curate import CurateOptions

    missing = [f"--{flag.name}" for flag in (_SAFETY, _OUT) if not flag.value]
    if missing:
        raise InputError(f"{' and '.join(missing)} must be given, or --check=FILE to look at a data file")
    if judge_flags.JUDGE.value == "relevance":
        raise InputError("--judge=relevance: says whether an answer is on topic, not how harmful it is; use harm")
    if (_SIZE.value is not None and _CORESET.value != "random") != bool(_CHECKPOINT.value):
        raise InputError("--checkpoint, --coreset_size and --coreset=loss|gradient_norm go together: give all or none")
    if _CHECKPOINT.value and not _CANDIDATES.value:
        raise InputError("--coreset=loss and gradient_norm score harmful answers: give --candidates")
    return CurateOptions(_RETAIN.value, _SEED.value, _SAFE_IMAGES.value, _CORESET.value, _SIZE.value)


if __name__ == "__main__":
    command.run(main, __doc__)
