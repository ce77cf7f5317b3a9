"""What a judge is, what it is shown, and how many answers are judged at once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.judges.label import Label
from vlm_mu_jax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Case:
    """One answer to judge.

    image: the file that the question was asked with, "blank:KIND", or None. image_id: a name of its content, as in
    answers files; judges' caches are keyed by it.
    """

    question: str
    answer: str
    record: Record
    image: Path | str | None = None
    image_id: str | None = None


class Judge(Protocol):
    """Says of one answer whether it answers, refuses, or does neither.

    name: keys its labels in answers files. exact: whether its "answered" means answered right, as `oracle`'s does.
    """

    name: str
    exact: bool

    def __call__(self, question: str, answer: str, record: Record) -> Label: ...


@runtime_checkable
class BatchJudge(Protocol):
    """A judge that is asked about many answers at once and keeps its verdicts in a cache of its own, by content."""

    name: str
    exact: bool

    def many(self, cases: Sequence[Case], progress: Progress | None = None) -> list[Label]: ...

    def cost(self) -> dict: ...


def judge_many(judge: Judge | BatchJudge, cases: Sequence[Case], progress: Progress | None = None) -> list[Label]:
    """The labels of many answers, in their order, by a judge of either sort."""
    if isinstance(judge, BatchJudge):
        return judge.many(cases, progress)
    return [judge(case.question, case.answer, case.record) for case in cases]
