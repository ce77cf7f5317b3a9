"""Measures a model: attack success, refusals, irrelevant answers, utility, the alignment gap.

Asks the questions of a data folder as they are and, with --attack_words, after the one-word attack; writes every answer
to WORKDIR/answers/*.jsonl (a killed run continues where it stopped), and all rates with 95 % intervals to
WORKDIR/results.json. With --baseline the rates are tested against another run, question by question.
Who judges, and how far to trust it (--judge, --calibrate), is in docs/judges.md; --rejudge never generates.

Example:
  bin/eval --checkpoint=runs/sft --data=runs/mini/data --workdir=runs/eval_sft --name=sft --kind=sft \\
      --attack_words=runs/attack_sft/attack.json --baseline=runs/eval_base
  bin/eval --list --data_root=sets       (which public data sets are ready here, and where the others come from)
"""

from typing import Any

from absl import flags

from vlm_mu_jax.cli import command, eval_list, judge_flags

flags.adopt_module_key_flags(eval_list)
flags.adopt_module_key_flags(judge_flags)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=eval_list.needs_run())
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder with test.json (VLGuard) and, if there, utility.json, text_harm.json, openings.json",
    required=eval_list.needs_data(),
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for answers and results", required=eval_list.needs_run())
_NAME = flags.DEFINE_string("name", "model", "how the run is called in results and report")
_KIND = flags.DEFINE_string("kind", "base", "what the model is: base, sft, npo, rmu, guard, ...")
_SEED = flags.DEFINE_integer("seed", 0, "the run's seed, as written in the results; also draws --max_questions")
_SUBSET = flags.DEFINE_enum("subset", "test", ["test", "train"], "which VLGuard file is asked")
_WORDS = flags.DEFINE_string(
    "attack_words", None, "attack.json of bin/attack: measure after the one-word attack as well"
)
_SHOTS = flags.DEFINE_integer(
    "shots", 3, "how many of the attack's words an unsafe question is tried with", lower_bound=1
)
_BASELINE = flags.DEFINE_string("baseline", None, "workdir of the run to test against")
_GUARD = flags.DEFINE_string("guard", None, "guard folder of bin/guard: steer the model with it")
_DEFENCE = flags.DEFINE_enum(
    "defence",
    "vanilla",
    ["vanilla", "self_reminder", "goal_priority", "ecso"],
    "how the model is asked, beside any --guard; bin/defences compares several",
)
_DEFENCE_PROMPTS = flags.DEFINE_string("defence_prompts", None, "JSON that replaces the wording of --defence")
_REJUDGE = flags.DEFINE_bool("rejudge", False, "label the answers that are there again; generates nothing")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "longest answer, in tokens", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "questions answered at a time", lower_bound=1)
_BLANK = flags.DEFINE_enum(
    "blank", "white", ["white", "black", "mean", "noise"], "the blank image of the alignment gap"
)
_LIMIT = flags.DEFINE_integer(
    "max_questions", None, "at most this many records of each kind per file, drawn by --seed", lower_bound=1
)
_SETS = flags.DEFINE_list("sets", [], "ask only these sets, such as unsafe_before,utility; all of them without it")


def main(argv: list[str]) -> None:
    if eval_list.LIST.value:
        return eval_list.print_sets()
    from vlm_mu_jax import progress
    from vlm_mu_jax.evaluation import evaluate, workdir
    from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
    from vlm_mu_jax.evaluation.answers.suite_answers import stored_answers
    from vlm_mu_jax.evaluation.defences import wrappers
    from vlm_mu_jax.evaluation.judging import judge_suite
    from vlm_mu_jax.evaluation.questions import suite
    from vlm_mu_jax.evaluation.results import table
    from vlm_mu_jax.steering.guarded import open_guard
    from vlm_mu_jax.storage import model_folder

    eval_list.names()  # a wrong name is an error before anything long begins
    command.enable_compilation_cache(_WORKDIR.value)
    folder = model_folder.find(_CHECKPOINT.value)
    words = suite.read_attack_words(_WORDS.value) if _WORDS.value else suite.AttackWords()
    questions = _questions(folder, words)
    labelled = judge_flags.labelled()
    judge, available = judge_flags.choose(_data(), _WORKDIR.value)
    run = evaluate.RunName(_NAME.value, _KIND.value, _SEED.value)
    wording = wrappers.read_wording(_DEFENCE_PROMPTS.value) if _DEFENCE_PROMPTS.value else wrappers.Wording()

    defended = None
    if _REJUDGE.value:
        settings, provenance = workdir.read_workdir(_WORKDIR.value)
        answers = stored_answers(questions, _WORKDIR.value)
    else:
        model = model_folder.load(folder)
        steer, guard = open_guard(model, _GUARD.value)
        settings, provenance = _describe(model, guard, questions, words)
        settings |= wrappers.settings(_DEFENCE.value, wording)
        workdir.open_workdir(_WORKDIR.value, settings, provenance)
        answering = AnswerOptions(_BATCH.value, _TOKENS.value, steer, progress.bar)
        answers, defended = wrappers.defend_suite(model, questions, _DEFENCE.value, _WORKDIR.value, answering, wording)
    answers = judge_suite(answers, questions, available, _WORKDIR.value, again=_REJUDGE.value, progress=progress.bar)
    answers |= eval_list.grade(answers, questions, judge, _WORKDIR.value, _REJUDGE.value, progress.bar)
    results = evaluate.summarise(
        run,
        answers,
        questions,
        judge,
        settings["max_new_tokens"],
        provenance,
        _BASELINE.value,
        judge_flags.agreement(judge, labelled, progress.bar),
    )
    if defended:
        results["runs"][0]["defence"] = defended
    workdir.write_results(_WORKDIR.value, results)
    table.print_results(results)
    advice = judge_flags.advice(results["runs"][0], results["comparisons"])
    if advice:
        print(advice)


def _questions(folder, words) -> Any:
    """The suite; a text-only model is asked the text-only questions."""
    from vlm_mu_jax.evaluation.questions import suite
    from vlm_mu_jax.storage import model_folder

    has_vision = model_folder.read_config(folder).vision is not None
    if not _DATA.value:
        return eval_list.extend(suite.Suite({}, {}, {}), _LIMIT.value, _SEED.value, has_vision)
    questions = suite.build(
        _DATA.value,
        _SUBSET.value,
        words,
        _SHOTS.value,
        _BLANK.value,
        _LIMIT.value,
        _SEED.value,
        with_images=has_vision,
    )
    questions = suite.only(questions, _SETS.value) if _SETS.value else questions
    return eval_list.extend(questions, _LIMIT.value, _SEED.value, has_vision)


def _data() -> str:
    """The data folder; public sets alone need none but their root."""
    return _DATA.value or eval_list.DATA_ROOT.value


def _describe(model, guard, questions, words) -> tuple[dict, dict]:
    """(config.json, provenance.json): the resolved settings and what they refer to."""
    import dataclasses
    from pathlib import Path

    from vlm_mu_jax.evaluation import provenance
    from vlm_mu_jax.storage.identity import weights_hash

    weights = weights_hash(model.params)
    flag_values = {
        flag.name: flag.value
        for flag in (
            _CHECKPOINT,
            _DATA,
            _NAME,
            _KIND,
            _SEED,
            _SUBSET,
            _SHOTS,
            _GUARD,
            *judge_flags.SETTINGS,
            _TOKENS,
            _BATCH,
            _BLANK,
            _LIMIT,
            _SETS,
            eval_list.DATA_ROOT,
            eval_list.SAFETY,
            eval_list.UTILITY,
        )
    }
    words = {name: list(some) for name, some in dataclasses.asdict(words).items()}
    settings = {
        **flag_values,
        "attack_words": words,
        "weights_sha256": weights,
        "guard_sha256": guard and guard["sha256"],
    }
    return settings, provenance.collect(model.folder, weights, Path(_data()), questions.files, guard)


if __name__ == "__main__":
    command.run(main, __doc__)
