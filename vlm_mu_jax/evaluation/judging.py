"""Labels for answers that are there already: judging again never generates again."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile
from vlm_mu_jax.evaluation.answers.suite_answers import SuiteAnswers, answers_path
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, judge_many
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.progress import Progress

Images = Mapping[tuple, Path | str | None]  # (record id, condition) -> what the question was asked with


def judge_answers(
    answers: Sequence[Answer],
    judges: Mapping[str, Judge | BatchJudge],
    records: Mapping[str, Record],
    *,
    path: str | Path | None = None,
    images: Images | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> list[Answer]:
    """The answers with a label of every judge.

    A label that an answer has already is kept, with one exception: a judge that keeps its replies in a cache is always
    asked, because the cache and not the answers file knows what the label was made from.

    Args:
      judges: by the name that keys their labels.
      records: by record id.
      path: the answers file. New labels are written to it; its other lines stay. The file is locked meanwhile.
      images: shown to judges that see images.
      again: replaces labels that are there.

    Raises:
      JobError: another process is writing the file.
    """
    if path is None:
        return _labelled(answers, judges, records, images, again, progress)
    with AnswersFile(path) as file:
        labelled = _labelled(answers, judges, records, images, again, progress)
        if any(new.labels != old.labels for new, old in zip(labelled, answers, strict=True)):
            file.relabel(labelled)
    return labelled


def judge_suite(
    sets: SuiteAnswers,
    suite: Suite,
    judges: Mapping[str, Judge | BatchJudge],
    workdir: str | Path | None = None,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> SuiteAnswers:
    """`judge_answers` for every set of a suite; with a workdir the labels are kept in its answers files."""
    return {
        name: judge_answers(
            answers,
            judges,
            suite.records[name],
            path=answers_path(workdir, name),
            images=suite.images(name),
            again=again,
            progress=progress,
        )
        for name, answers in sets.items()
    }


def _labelled(
    answers: Sequence[Answer],
    judges: Mapping[str, Judge | BatchJudge],
    records: Mapping[str, Record],
    images: Images | None,
    again: bool,
    progress: Progress | None,
) -> list[Answer]:
    labels = [dict(answer.labels) for answer in answers]
    for name, judge in judges.items():
        rows = [i for i, a in enumerate(answers) if again or isinstance(judge, BatchJudge) or name not in a.labels]
        cases = [_case(answers[i], records, images or {}) for i in rows]
        for i, label in zip(rows, judge_many(judge, cases, progress), strict=True):
            labels[i][name] = label.to_dict()
    return [dataclasses.replace(a, labels=some) for a, some in zip(answers, labels, strict=True)]


def _case(answer: Answer, records: Mapping[str, Record], images: Images) -> Case:
    shown = images.get((answer.id, answer.condition))
    return Case(answer.question, answer.answer, records[answer.id], shown, answer.image_id)
