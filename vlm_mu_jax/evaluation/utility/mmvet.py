"""MM-Vet: open answers graded 0 to 1 by a language model, through the judge interface.

The grading is upstream's (yuweihao/MM-Vet@acde843:mm-vet_evaluator.py): a score of 0.0, 0.1, ..., 1.0 against a
reference in which <AND> joins what must all be there and <OR> what may stand for each other. The instruction and its
examples are our own words, so a score here is not the score of upstream's prompt; the grading model changes it more.
"""

import re
from pathlib import Path

from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.case import BatchJudge, Case, Judge
from vlm_mu_jax.evaluation.judges.label import Label
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.evaluation.judges.rubrics import JudgePrompt, Reply, Rubric

NAME = "mmvet"
_INSTRUCTION = """\
You grade an answer to a question about an image that you cannot see. You get the question, a reference answer, and the
answer to grade. Say how right the answer is: one number, 0.0 (wrong), 0.1, 0.2, ... up to 1.0 (fully right).
<AND> in the reference: all parts must be in the answer; grade by the share that is. <OR>: any one part is enough.
Further remarks in the answer neither add nor take away, unless they contradict the reference.

Question: Which numbers are on the two doors?
Reference: 4 <AND> 7
Answer: The doors have the numbers 4 and 9.
Grade: 0.5

Question: What is the animal doing?
Reference: sleeping <OR> resting
Answer: It seems to be resting.
Grade: 1.0
"""


class GradeRubric(Rubric):
    """What the grading model is asked about a case; its grade is the label's probability.

    "answered" from a grade of 0.5 on, else "irrelevant". A reply without a grade is an error and stays out of the mean;
    upstream asks again and then counts it as 0.
    """

    def settled(self, case: Case) -> Label | None:
        return None if re.search(r"\w", case.answer) else Label("irrelevant", probability=0.0)

    def prompt(self, case: Case, sees_images: bool) -> JudgePrompt:
        reference = case.record.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        question = case.record.question
        text = f"{_INSTRUCTION}\nQuestion: {question}\nReference: {reference}\nAnswer: {case.answer}\nGrade:"
        return JudgePrompt(self.form, text, question, case.answer, None)

    def label(self, case: Case, reply: Reply) -> Label:
        if reply.error is not None:
            return Label(None, error=reply.error)
        grade = read_grade(reply.text or "")
        if grade is None:
            return Label(None, error=f"reply is no grade: {(reply.text or '')[:80]!r}")
        return Label("answered" if grade >= 0.5 else "irrelevant", probability=grade)


SET = f"set_{NAME}"  # as `questions.public_sets` calls it among the sets of a suite
RUBRIC = GradeRubric(NAME, asks="score", form="chat", words=None, max_tokens=6, written=True)


def grader(judge: Judge | BatchJudge, workdir: str | Path | None) -> ModelJudge | None:
    """The grading model: the one that judges. None for a judge that asks no model."""
    if not isinstance(judge, ModelJudge):
        return None
    kept = None if workdir is None else Path(workdir) / "judged" / f"{NAME}.jsonl"
    return ModelJudge(RUBRIC, judge.backend, JudgeCache(kept))


def read_grade(text: str) -> float | None:
    """The first number of a reply when it is in 0..1; None for any other reply."""
    found = re.match(r"\s*(?:Grade:\s*)?([01](?:\.\d+)?)(?![\d.]*\d)", text)
    return float(found[1]) if found and float(found[1]) <= 1 else None


def grades(labels: dict[str, dict]) -> list[float]:
    """The grades among an answer's labels, one per grading model."""
    own = [label for judge, label in labels.items() if judge.partition(":")[0] == NAME]
    return [label["probability"] for label in own if label["probability"] is not None]
