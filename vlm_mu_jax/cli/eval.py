"""Measures a model: attack success, refusals, irrelevant answers, utility, the alignment gap.

Asks the questions of a data folder as they are and, with --attack_words, after the one-word attack; writes every answer
to WORKDIR/answers/*.jsonl (a killed run continues where it stopped), and all rates with 95 % intervals to
WORKDIR/results.json. With --baseline the rates are tested against another run, question by question.

Example:
  bin/eval --checkpoint=runs/sft --data=runs/mini/data --workdir=runs/eval_sft --name=sft --kind=sft \\
      --attack_words=runs/attack_sft/attack.json --baseline=runs/eval_base
"""

from typing import Any

from absl import flags

from vlm_mu_jax.cli import command

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "model folder", required=True)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "folder with test.json (VLGuard) and, if there, utility.json, text_harm.json, openings.json",
    required=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for answers and results", required=True)
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
_JUDGE = flags.DEFINE_enum(
    "judge",
    None,
    ["oracle", "keyword", "keyword_seed"],
    "whose labels the results count (default: oracle if the data have one, else keyword)",
)
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
    from vlm_mu_jax import model_folder
    from vlm_mu_jax.cli import progress
    from vlm_mu_jax.evaluation import judges, runner, suite, table

    command.enable_compilation_cache(_WORKDIR.value)
    folder = model_folder.find(_CHECKPOINT.value)
    words = suite.read_attack_words(_WORDS.value) if _WORDS.value else suite.AttackWords()
    questions = _questions(folder, words)
    available = judges.available(_DATA.value)
    judge = judges.get(_JUDGE.value, _DATA.value) if _JUDGE.value else next(iter(available.values()))
    run = runner.RunName(_NAME.value, _KIND.value, _SEED.value)

    if _REJUDGE.value:
        settings, provenance = runner.read_workdir(_WORKDIR.value)
        answers = runner.recall(questions, _WORKDIR.value)
    else:
        model = model_folder.load(folder)
        steer, guard = _guard(model)
        settings, provenance = _describe(model, guard, questions, words)
        runner.open_workdir(_WORKDIR.value, settings, provenance)
        answers = runner.ask(
            model, questions, _WORKDIR.value, _BATCH.value, settings["max_new_tokens"], steer, progress.bar
        )
    answers = runner.judge(answers, questions, _WORKDIR.value, available, again=_REJUDGE.value)
    results = runner.summarise(run, answers, questions, judge, settings["max_new_tokens"], provenance, _BASELINE.value)
    runner.write_results(_WORKDIR.value, results)
    table.print_results(results)


def _questions(folder, words) -> Any:
    """The suite; a text-only model is asked the text-only questions."""
    from vlm_mu_jax import model_folder
    from vlm_mu_jax.attack.words import open_with
    from vlm_mu_jax.evaluation import suite

    has_vision = model_folder.read_config(folder).vision is not None
    questions = suite.build(
        _DATA.value,
        _SUBSET.value,
        open_with,
        words,
        _SHOTS.value,
        _BLANK.value,
        _LIMIT.value,
        _SEED.value,
        with_images=has_vision,
    )
    return suite.only(questions, _SETS.value) if _SETS.value else questions


def _guard(model) -> tuple[Any, dict | None]:
    """What steers every batch and what identifies the guard; (None, None) without --guard."""
    if not _GUARD.value:
        return None, None
    import hashlib
    from pathlib import Path

    from vlm_mu_jax.steering.guard import load_guard
    from vlm_mu_jax.steering.guarded import steering

    steer = steering(model, load_guard(_GUARD.value, model))
    files = sorted(p for p in Path(_GUARD.value).iterdir() if p.is_file())
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()
    return steer, {"folder": _GUARD.value, "sha256": digest}


def _describe(model, guard, questions, words) -> tuple[dict, dict]:
    """(config.json, provenance.json): the resolved settings and what they refer to."""
    import dataclasses
    from pathlib import Path

    from vlm_mu_jax.evaluation import provenance
    from vlm_mu_jax.steering.artifact import weights_hash

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
            _JUDGE,
            _TOKENS,
            _BATCH,
            _BLANK,
            _LIMIT,
            _SETS,
        )
    }
    words = {name: list(some) for name, some in dataclasses.asdict(words).items()}
    settings = {
        **flag_values,
        "attack_words": words,
        "weights_sha256": weights,
        "guard_sha256": guard and guard["sha256"],
    }
    return settings, provenance.collect(model.folder, weights, Path(_DATA.value), questions.files, guard)


if __name__ == "__main__":
    command.run(main, __doc__)
