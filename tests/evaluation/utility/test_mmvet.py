"""MM-Vet's grader inside the judge interface: what is asked, what becomes of replies, what the cache keeps apart."""

import dataclasses

import pytest

from vlm_mu_jax.data.records import Item
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.case import Case
from vlm_mu_jax.evaluation.judges.model_judge import ModelJudge
from vlm_mu_jax.evaluation.judges.rubrics import Reply
from vlm_mu_jax.evaluation.utility import mmvet

ITEM = Item("v1_0", "images/v1_0.png", "What is x?", "-1<AND>-5", "general", details={"capability": ["math"]})


class Grader:
    """Says what it was made with; keeps what it was asked."""

    name, identity, sees_images = "grader", "grader 1", True

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    def ask(self, prompts, words, max_tokens):
        for index, prompt in enumerate(prompts):
            self.asked.append(prompt)
            yield index, self.replies.pop(0)

    def cost(self):
        return {}


@pytest.fixture
def judge(tmp_path):
    def make(*replies):
        grader = Grader(*replies)
        return ModelJudge(mmvet.RUBRIC, grader, JudgeCache(tmp_path / "grades.jsonl")), grader

    return make


def test_the_grader_sees_question_reference_and_answer_but_no_image(judge):
    one, grader = judge(Reply(text="0.5"))
    label = one(ITEM.question, "x = -1", ITEM)
    (prompt,) = grader.asked
    assert prompt.text.endswith("Question: What is x?\nReference: -1 <AND> -5\nAnswer: x = -1\nGrade:")
    assert prompt.form == "chat" and prompt.image is None
    assert (label.label, label.probability, one.name) == ("answered", 0.5, "mmvet:grader")
    assert mmvet.grades({one.name: label.to_dict(), "keyword": {"label": "refused", "probability": None}}) == [0.5]


def test_replies_that_are_no_grade_are_errors_and_an_empty_answer_is_worth_nothing(judge):
    one, grader = judge(Reply(text="very good"), Reply(error="timed out"), Reply(text="0.4"))
    said = [one(ITEM.question, text, ITEM) for text in ("a", "b", "c", " ")]
    assert [label.label for label in said] == [None, None, "irrelevant", "irrelevant"]
    assert "no grade" in said[0].error and said[1].error == "timed out" and said[3].probability == 0
    assert len(grader.asked) == 3


def test_the_same_words_about_another_image_are_graded_anew(judge):
    """MM-Vet asks "What is x in the equation?" of several images, with other references."""
    other = dataclasses.replace(ITEM, id="v1_1", image="images/v1_1.png", answer="7")
    one, grader = judge(Reply(text="1.0"), Reply(text="0.0"))
    cases = [Case(ITEM.question, "x = -1 or -5", item) for item in (ITEM, other, ITEM)]
    assert [label.probability for label in one.many(cases)] == [1.0, 0.0, 1.0]
    assert len(grader.asked) == 2
