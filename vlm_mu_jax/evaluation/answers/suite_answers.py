"""Answers to every set of a suite, one file per set: asked where they are missing, or read for judging again."""

from pathlib import Path

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.storage.model_folder import Model

ANSWERS = "answers"

SuiteAnswers = dict[str, list[Answer]]  # set name -> its answers, in the order of the set's questions


def answers_path(workdir: str | Path | None, name: str) -> Path | None:
    """The answers file of the set `name`; None without a workdir."""
    return None if workdir is None else Path(workdir) / ANSWERS / f"{name}.jsonl"


def answer_suite(
    model: Model,
    suite: Suite,
    workdir: str | Path | None = None,
    options: AnswerOptions = AnswerOptions(),
) -> SuiteAnswers:
    """The model's answers to every set of a suite.

    Args:
      workdir: keeps them in `workdir/answers/SET.jsonl`, where a killed run goes on. Without it they stay in memory.
    """
    return {
        name: answer_questions(
            model,
            questions,
            answers_path(workdir, name),
            options,
            label=name.replace("_", " "),
            only_these=True,
        )
        for name, questions in suite.sets.items()
    }


def stored_answers(suite: Suite, workdir: str | Path) -> SuiteAnswers:
    """The answers to a suite that `workdir` holds, for judging again without a model.

    Raises:
      InputError: some of them are missing.
    """
    found = {}
    for name, questions in suite.sets.items():
        path = answers_path(workdir, name)
        stored = {(a.id, a.condition): a for a in answers_file.read(path)}
        missing = sum((q.id, q.condition) not in stored for q in questions)
        if missing:
            raise InputError(f"{path}: {missing} of {len(questions)} answers are missing; run without --rejudge")
        found[name] = [stored[q.id, q.condition] for q in questions]
    return found
