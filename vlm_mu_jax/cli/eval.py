"""Measures a model: attack success, refusals, irrelevant answers, utility, the alignment gap.

Asks the questions of a data folder as they are and, with --attack_words, after the one-word attack; writes every answer
to WORKDIR/answers/*.jsonl (a killed run continues where it stopped), and all rates with 95 % intervals to
WORKDIR/results.json. With --baseline the rates are tested against another run, question by question.
Who judges, and how far to trust it (--judge, --calibrate), is in docs/judges.md; --rejudge never generates.

Example:
  bin/eval --checkpoint=runs/sft --data=runs/mini/data --workdir=runs/eval_sft --name=sft --kind=sft \\
      --attack_words=runs/attack_sft/attack.json --baseline=runs/eval_base
  bin/eval --checkpoint=runs/sft --data=mine.csv --question_kind=unsafe --columns=question=Goal --workdir=runs/eval_mine
  bin/eval ... --workdir=runs/eval_sft --shard=3/16     (one of 16 jobs; then bin/eval ... --join)
  bin/eval --list --data_root=sets       (which public data sets are ready here, and where the others come from)
"""

from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster, command, eval_list, judge_flags, mesh_flag, quantize_flag, shard_flags, shared_flags

if TYPE_CHECKING:
    from pathlib import Path

    from vlm_mu_jax.evaluation.answering import Making
    from vlm_mu_jax.evaluation.answers.share import Share
    from vlm_mu_jax.evaluation.evaluate import EvaluateOptions
    from vlm_mu_jax.evaluation.questions.suite import Suite
    from vlm_mu_jax.storage.model_folder import Model

flags.adopt_module_key_flags(eval_list)
flags.adopt_module_key_flags(judge_flags)
flags.adopt_module_key_flags(quantize_flag)
flags.adopt_module_key_flags(mesh_flag)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(shard_flags)
_CHECKPOINT = shared_flags.checkpoint(required=eval_list.needs_run())
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder with test.json (VLGuard) and, if there, utility.json, text_harm.json, openings.json; or a file of questions"
    " (TXT, CSV, TSV, JSON, JSON lines, Parquet), with or without reference answers",
    required=eval_list.needs_data(),
)
_QUESTION_KIND = flags.DEFINE_string(
    "question_kind", None, "with a file as --data, the kind of rows that name none: unsafe, safe or general"
)
_COLUMNS = shared_flags.columns()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for answers and results", required=eval_list.needs_run())
_NAME = flags.DEFINE_string("name", "model", "how the run is called in results and report")
_KIND = flags.DEFINE_string("kind", "base", "what the model is: base, sft, npo, rmu, guard, ...")
_SEED = shared_flags.seed()
_SUBSET = shared_flags.subset()
_WORDS = flags.DEFINE_string(
    "attack_words", None, "attack.json of bin/attack: measure after the one-word attack as well"
)
_SHOTS = flags.DEFINE_integer(
    "shots", 3, "how many of the attack's words an unsafe question is tried with", lower_bound=1
)
_BASELINE = flags.DEFINE_string("baseline", None, "workdir of the run to test against")
_GUARD = shared_flags.guard()
_DEFENCE = flags.DEFINE_enum(
    "defence",
    "vanilla",
    [
        "vanilla",
        "self_reminder",
        "goal_priority",
        "ecso",
        "adashield",
        "text_first",
        "erase_and_check",
        "gate_and_check",
        "coca",
    ],
    "how the model is asked, beside any --guard; bin/defences compares several",
)
_DEFENCE_PROMPTS = flags.DEFINE_string("defence_prompts", None, "JSON that replaces the wording of --defence")
_REJUDGE = flags.DEFINE_bool("rejudge", False, "label the answers that are there again; generates nothing")
_TOKENS = shared_flags.max_new_tokens(256)
_BATCH = shared_flags.batch_size(16)
_BLANK = shared_flags.blank("the blank image of the alignment gap")
_LIMIT = shared_flags.max_questions()
_HISTORY = flags.DEFINE_enum(
    "history",
    "own",
    ["own", "data"],
    "of dialogues, whose earlier answers stand before a question: the model's own, or those of the data",
)
_TURN = flags.DEFINE_string(
    "turn",
    None,
    "of dialogues, the question that a word of --attack_words opens: first, last, or its number from 1 (default: the"
    " one that the words were searched in)",
)
_SETS = flags.DEFINE_list("sets", [], "ask only these sets, such as unsafe_before,utility; all of them without it")


def main(argv: list[str]) -> None:
    from vlm_mu_jax import progress

    if eval_list.LIST.value:
        from vlm_mu_jax.data.readers import catalogue_table

        root = eval_list.DATA_ROOT.value
        return print(catalogue_table.text(root, eval_list.names_from_flags() if root else (), progress.bar))
    share = shard_flags.share_from_flags(*["--rejudge"] * _REJUDGE.value)
    speaks = cluster.join_from_flags()
    from vlm_mu_jax.evaluation import shards
    from vlm_mu_jax.evaluation.answering import Making
    from vlm_mu_jax.evaluation.evaluate import resolve_suite
    from vlm_mu_jax.steering import guard_folder
    from vlm_mu_jax.storage import model_folder

    guard_folder.check(_GUARD.value)
    eval_list.names_from_flags()  # a wrong name is an error before anything long begins
    options, judge = _options_from_flags(), judge_flags.options_from_flags(calibrates=True)
    making = Making(options, judge, _GUARD.value, judge_flags.CALIBRATE.value or (), progress.bar if speaks else None)
    folder = model_folder.find(_CHECKPOINT.value)
    has_vision = model_folder.read_config(folder).vision is not None
    suite = resolve_suite(_DATA.value, options, _WORDS.value, has_vision)
    command.prepare_jax(_WORKDIR.value)
    if speaks:
        for note in suite.notes:
            print(note)
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), _BATCH.value, _TOKENS.value):
        if share is not None:
            return _answer_share(folder, suite, making, _WORKDIR.value, share)
        if shard_flags.JOIN.value:
            shards.join(suite, _WORKDIR.value)
        model = _answer_together(folder, suite, making, _WORKDIR.value, speaks) if cluster.several() else folder
        if speaks:
            answered = _REJUDGE.value or shard_flags.JOIN.value
            _measure(
                None if answered else model, suite, making, _BASELINE.value, _WORKDIR.value, judge_flags.DETECT.value
            )
        cluster.leave_together()


def _measure(
    model: "Model | Path | None", suite: "Suite", making: "Making", baseline: str | None, workdir: str, detect: float
) -> None:
    """Answers what is unanswered, judges, counts and prints. detect: the difference that the advice is about."""
    from vlm_mu_jax.evaluation.evaluate import evaluate
    from vlm_mu_jax.evaluation.results import sample_size, table

    found = evaluate(
        model,
        suite,
        making.options,
        judge=making.judge,
        guard=making.guard,
        baseline=baseline,
        calibrate=making.calibrate,
        workdir=workdir,
        progress=making.progress,
    ).to_dict()
    table.print_results(found)
    if advice := sample_size.advice(found["runs"][0], found["comparisons"], detect):
        print(advice)


def _answer_share(folder: "Path", suite: "Suite", making: "Making", workdir: str, share: "Share") -> None:
    from vlm_mu_jax.evaluation import shards
    from vlm_mu_jax.storage import model_folder

    shards.check_number(workdir, share)
    model = model_folder.load(folder, quantize=making.options.quantize)
    count = shards.answer_share(model, suite, making, workdir, share)
    print(f"shard {share}: {count} answers; judge and count with --join when all {share.count} are done")


def _answer_together(folder: "Path", suite: "Suite", making: "Making", workdir: str, speaks: bool) -> "Model":
    """Answers all questions together with the other processes. Returns the model that did."""
    from vlm_mu_jax.evaluation import shards
    from vlm_mu_jax.storage import model_folder

    model = model_folder.load(folder, quantize=making.options.quantize)
    shards.answer_together(model, suite, making, workdir, cluster.tell if speaks else None)
    return model


def _options_from_flags() -> "EvaluateOptions":
    """What the flags ask for."""
    from vlm_mu_jax.data.questions import parse_columns
    from vlm_mu_jax.evaluation.defences.wrappers import Wording, read_wording
    from vlm_mu_jax.evaluation.evaluate import EvaluateOptions

    return EvaluateOptions(
        name=_NAME.value,
        kind=_KIND.value,
        seed=_SEED.value,
        subset=_SUBSET.value,
        shots=_SHOTS.value,
        blank=_BLANK.value,
        max_questions=_LIMIT.value,
        sets=tuple(_SETS.value),
        safety=tuple(eval_list.SAFETY.value),
        utility=tuple(eval_list.UTILITY.value),
        data_root=eval_list.DATA_ROOT.value,
        defence=_DEFENCE.value,
        wording=read_wording(_DEFENCE_PROMPTS.value) if _DEFENCE_PROMPTS.value else Wording(),
        question_kind=_QUESTION_KIND.value,
        columns=parse_columns(_COLUMNS.value),
        history=_HISTORY.value,
        turn=_TURN.value,
        quantize=quantize_flag.QUANTIZE.value,
        batch_size=_BATCH.value,
        max_new_tokens=_TOKENS.value,
    )


if __name__ == "__main__":
    command.run(main, __doc__)
