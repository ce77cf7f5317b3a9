"""Attacks an unlearned model by fine-tuning: how soon does the unlearned harm come back?

Fine-tunes the model on a few of the forgotten examples (--forget=K) or on harmless data (--harmless=FILE), and asks
held-out questions on the way. Writes WORKDIR/relearn.json, a curve of attack success against steps with 95 % intervals,
and relearn.svg, which bin/report can show. The worst asking of a question counts: as it stands, under
every word of openings.json, and under those of --attack_words. A killed attack goes on where it stopped.

Example:
  bin/relearn --checkpoint=runs/npo --data=runs/mini/data --forget=16 --workdir=runs/relearn_npo \\
      --forget_answers=runs/forget/answers/unsafe_before.jsonl
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, command, mesh_flag, quantize_flag, shared_flags

if TYPE_CHECKING:
    from vlm_mu_jax.training.relearning import RelearnOptions

flags.adopt_module_key_flags(quantize_flag)
flags.adopt_module_key_flags(mesh_flag)
flags.adopt_module_key_flags(cluster)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder of the unlearned model", required=True)
_DATA = flags.DEFINE_string("data", None, "folder of the training data and of the questions", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints, answers and relearn.json", required=True)
_FORGET = flags.DEFINE_integer("forget", None, "train on this many forgotten requests", lower_bound=1)
_ANSWERS = flags.DEFINE_string("forget_answers", None, "--forget: judged answers of the base model to train.json")
_HARMLESS = flags.DEFINE_string("harmless", None, "train on the safe and general records of this file in --data")
_NAME = flags.DEFINE_string("name", None, "what the curve is called (default: the model folder's name)")
_STEPS = flags.DEFINE_integer("steps", 60, "updates in all", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 10, "updates between evaluations", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "rows per update", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 1e-4, "constant learning rate of AdamW", lower_bound=0.0)
_LORA = flags.DEFINE_integer("lora_rank", 0, "rank of LoRA; 0 trains decoder and projector whole", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "draws the examples, their order and the questions")
_SUBSET = shared_flags.subset()
_WORDS = flags.DEFINE_string("attack_words", None, "attack.json of bin/attack: ask with its words as well")
_LIMIT = flags.DEFINE_integer("max_questions", 96, "questions of each kind, drawn by --seed", lower_bound=1)
_JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    ["oracle", "refusal", "keyword", "keyword_seed"],
    "default: oracle if the data have one, else refusal",
)
_TOKENS = shared_flags.max_new_tokens(64)
_ASKED = flags.DEFINE_integer("eval_batch_size", 16, "questions answered at a time", lower_bound=1)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.data import readers
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.files import outputs
    from vlm_mu_jax.training.step_log import EvaluationLog

    if (_FORGET.value is None) == (_HARMLESS.value is None):
        raise InputError("give either --forget=K or --harmless=FILE, the data to fine-tune on")
    if _FORGET.value is not None and not _ANSWERS.value:
        raise InputError("--forget needs --forget_answers, the harmful answers of the base model (bin/eval wrote them)")
    workdir, data = Path(_WORKDIR.value).expanduser(), Path(_DATA.value).expanduser()
    outputs.check_writable(workdir / "relearn.json")
    speaks = cluster.join_from_flags()
    from vlm_mu_jax.storage import model_folder
    from vlm_mu_jax.training.checkpoint import check_place
    from vlm_mu_jax.training.evaluation_questions import EvaluationQuestions
    from vlm_mu_jax.training.relearning import forget_records, harmless_records, relearn

    check_place(workdir)
    options = _options_from_flags(data)
    questions = EvaluationQuestions.from_folder(_CHECKPOINT.value, options.questions, options.seed)
    if _HARMLESS.value is not None:
        records, what = harmless_records(data / _HARMLESS.value), "harmless data"
    else:
        records = forget_records(readers.read(data / "train.json"), _ANSWERS.value, _FORGET.value, options.seed)
        what = f"{_FORGET.value} forgotten examples"
    command.prepare_jax(workdir)
    rows = min(options.batch_size, len(records))
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), rows, _TOKENS.value, training=options.held):
        model = model_folder.load(_CHECKPOINT.value, quantize=quantize_flag.QUANTIZE.value)
    found = relearn(
        model,
        records,
        options,
        workdir,
        questions=questions,
        progress=cluster.bar(),
        on_evaluation=EvaluationLog(options.steps) if speaks else None,
    )
    if not speaks:
        return cluster.leave_together()
    from vlm_mu_jax.reporting import relearning

    name = _NAME.value or Path(_CHECKPOINT.value).name
    made = {"checkpoint": _CHECKPOINT.value, "quantize": quantize_flag.QUANTIZE.value}
    relearning.write(workdir, found, name=name, what=what, settings={**options.settings(), **made})
    print(found.table())
    print(f"wrote {workdir / 'relearn.json'} and relearn.svg")
    cluster.leave_together()


def _options_from_flags(data: Path) -> "RelearnOptions":
    from vlm_mu_jax.training.evaluation_questions import QuestionOptions
    from vlm_mu_jax.training.relearning import RelearnOptions

    questions = QuestionOptions(
        data=str(data),
        subset=_SUBSET.value,
        attack_words=_WORDS.value or "",
        questions=_LIMIT.value,
        judge=_JUDGE.value or "",
        batch_size=_ASKED.value,
        max_new_tokens=_TOKENS.value,
    )
    return RelearnOptions(questions, _STEPS.value, _EVERY.value, _BATCH.value, _RATE.value, _LORA.value, _SEED.value)


if __name__ == "__main__":
    command.run(main, __doc__)
