"""Labels for answers that are there already: judging again never generates again."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile
from vlm_mu_jax.evaluation.answers.suite_answers import SuiteAnswers, answers_path
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, JudgeOptions, Label, choose, judge_many
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.progress import Progress

Images = Mapping[tuple, Path | str | None]  # (record id, condition) -> what the question was asked with


def judge(
    answers: str | Path | Sequence[str] | Sequence[Answer],
    judge: str | JudgeOptions | Judge | BatchJudge = "refusal",
    records: Records | Mapping[str, Record] | Sequence[Record] | str | Path | None = None,
    *,
    workdir: str | Path | None = None,
    write: bool = False,
    progress: Progress | None = None,
) -> list[Label]:
    """Labels answers: "answered", "refused" or "irrelevant", or no label where the judge gives none.

        [one.label for one in judge(["I'm sorry, I can't help.", "First take the ring."])]   # refused, answered
        judge("runs/eval/answers/unsafe_before.jsonl", JudgeOptions("harm", server=URL, model=NAME))

    Args:
      answers: plain texts, answers, or an answers file. Nothing is generated.
      judge: a name, `JudgeOptions` for a judge that asks a model, or a judge of your own.
      records: what was asked: one record per text in their order, or the records of the answers' ids as a mapping or a
        data file. The judge `oracle` reads `oracle.json` beside that file. Without records the questions are taken for
        unsafe ones, and a text's own question is unknown to the judge.
      workdir: keeps the replies of a judging model, so that no question is asked twice.
      write: puts the labels into the answers file as well.

    Returns:
      one label per answer, in their order.

    Raises:
      InputError: an unknown judge, a bad file, or an answer without a record. JobError: another process writes the
        answers file.
    """
    path = Path(answers) if isinstance(answers, str | Path) else None
    if path is not None and not path.is_file():
        raise InputError(f"{answers}: no such answers file; give plain texts as a list")
    if write and path is None:
        raise InputError("write puts labels into an answers file; give the path of one")
    given = answers_file.read(path) if path is not None else list(answers)
    if path is not None and not given:
        raise InputError(f"{path}: holds no answers; give a file that an evaluation wrote")
    read = readers.read(records) if isinstance(records, str | Path) else records
    folder = read.source.parent if isinstance(read, Records) else None
    chosen = choose(judge, folder, workdir).counted
    if all(isinstance(one, Answer) for one in given):
        labelled = _judge_stored(given, chosen, read, path if write else None, progress)
        return [Label(**one.labels[chosen.name]) for one in labelled]
    return judge_many(chosen, _text_cases(given, read), progress)


def _judge_stored(
    answers: Sequence[Answer],
    judge: Judge | BatchJudge,
    records: Records | Mapping[str, Record] | Sequence[Record] | None,
    path: Path | None,
    progress: Progress | None,
) -> list[Answer]:
    if records is None:
        by_id = {a.id: Record(a.id, None, a.question, "", "unsafe") for a in answers}
    else:
        by_id = dict(records) if isinstance(records, Mapping) else {record.id: record for record in records}
    missing = next((a.id for a in answers if a.id not in by_id), None)
    if missing is not None:
        raise InputError(f"no record {missing!r} among the records; give those that the answers belong to")
    images: dict[tuple, Path | str | None] = {}
    if isinstance(records, Records):
        images = {(a.id, a.condition): records.image_path(by_id[a.id]) for a in answers if a.condition.image == "own"}
    return judge_answers(answers, {judge.name: judge}, by_id, path=path, images=images, again=True, progress=progress)


def _text_cases(texts: Sequence[str], records: Sequence[Record] | Mapping[str, Record] | None) -> list[Case]:
    some = [Record(str(i), None, "?", "", "unsafe") for i in range(len(texts))] if records is None else list(records)
    if isinstance(records, Mapping) or len(some) != len(texts):
        raise InputError(f"{len(texts)} texts need as many records in their order")
    return [Case(record.question, text, record) for text, record in zip(texts, some, strict=True)]


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
        asked = [i for i, a in enumerate(answers) if not a.left_out]
        rows = [i for i in asked if again or isinstance(judge, BatchJudge) or name not in answers[i].labels]
        for i in set(range(len(answers))) - set(asked):
            labels[i][name] = Label(None, error=answers[i].left_out).to_dict()
        cases = [_case(answers[i], records, images or {}) for i in rows]
        for i, label in zip(rows, judge_many(judge, cases, progress), strict=True):
            labels[i][name] = label.to_dict()
    return [dataclasses.replace(a, labels=some) for a, some in zip(answers, labels, strict=True)]


def _case(answer: Answer, records: Mapping[str, Record], images: Images) -> Case:
    shown = images.get((answer.id, answer.condition))
    return Case(answer.question, answer.answer, records[answer.id], shown, answer.image_id)
