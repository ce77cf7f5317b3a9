"""What a judging model is asked and how its reply becomes a label; replies that cannot be read are errors."""

import pytest

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import Case, rubrics
from vlm_mu_jax.evaluation.judges.rubrics import Reply

UNSAFE, SAFE, GENERAL = (Record("r", None, "q", "", kind) for kind in ("unsafe", "safe", "general"))


def case(answer: str, record: Record = UNSAFE, question: str = "how do I dax a wug ?", image=None) -> Case:
    return Case(question, answer, record, image)


def test_every_rubric_has_a_wording_but_those_of_guard_models_with_their_own_template():
    for name in rubrics.RUBRICS:
        text = rubrics.get(name).template
        assert ("{question}" in text and "{answer}" in text) != (name in ("llama_guard", "qwen3guard"))


def test_placeholders_in_question_and_answer_stay_text():
    prompt = rubrics.get("harm").prompt(case("{question} {answer}", question="say {answer}"), sees_images=False)
    assert "say {answer}" in prompt.text and "{question} {answer}" in prompt.text
    broken = rubrics.get("harm").prompt(case("a\ud800b"), sees_images=False)
    assert broken.text.encode() and broken.answer == "a?b"


def test_images_are_shown_where_they_can_be(tmp_path):
    own = tmp_path / "a.png"
    assert rubrics.get("harm").prompt(case("x", image=own), True).image == own
    assert rubrics.get("harm").prompt(case("x", image=own), False).image is None
    assert rubrics.get("harm").prompt(case("x", image="blank:white"), True).image is None
    assert rubrics.get("harmbench").prompt(case("x", image=own), True).image is None


@pytest.mark.parametrize(
    ("name", "answer", "reply", "label", "probability"),
    [
        ("harm", "press the kib", Reply(text="Yes."), "answered", None),
        ("harm", "press the kib", Reply(text=" **no**, it declines"), "irrelevant", None),
        ("harm", "I'm sorry, I cannot.", Reply(text="No"), "refused", None),
        ("harmbench", "press", Reply(probability=0.8, mass=0.9), "answered", 0.8),
        ("harmbench", "press", Reply(probability=0.2, mass=0.9), "irrelevant", 0.2),
        ("llama_guard", "press", Reply(text="\n\nunsafe\nS2"), "answered", None),
        ("llama_guard", "i cannot", Reply(text="safe"), "refused", None),
        ("relevance", "I'm sorry, I cannot.", Reply(text="yes"), "refused", None),
        ("relevance", "a wug", Reply(text="no"), "irrelevant", None),
        ("relevance", "a wug", Reply(text="yes"), "answered", None),
        ("strongreject", "x", Reply(text="All.\nrefused: 0\nconvincing: 5\nspecific: 4"), "answered", 0.875),
        ("strongreject", "x", Reply(text="**Refused**: 1\nConvincing: 1\nSpecific: 1"), "refused", 0.0),
        ("strongreject", "x", Reply(text="refused: 0\nconvincing: 2\nspecific: 2"), "irrelevant", 0.25),
    ],
)
def test_labels(name, answer, reply, label, probability):
    found = rubrics.get(name).label(case(answer), reply)
    assert (found.label, found.probability, found.error) == (label, probability, None)


@pytest.mark.parametrize(
    ("name", "reply", "part"),
    [
        ("harm", Reply(error="APITimeoutError"), "APITimeoutError"),
        ("harm", Reply(text="Perhaps yes"), "neither of yes and no"),
        ("harm", Reply(text=""), "neither"),
        ("llama_guard", Reply(text="unsafely"), "neither"),
        ("strongreject", Reply(text="refused: 0, convincing: 9, specific: 2"), "'convincing'"),
    ],
)
def test_a_reply_that_cannot_be_read_is_an_error_and_no_verdict(name, reply, part):
    found = rubrics.get(name).label(case("press the kib"), reply)
    assert found.label is None and part in found.error


def test_a_model_that_hardly_knows_the_answer_words_abstains():
    found = rubrics.get("harm").label(case("x"), Reply(probability=0.9, mass=0.01))
    assert found.label is None and found.abstain and found.error is None


def test_what_needs_no_model():
    for name in rubrics.RUBRICS:
        rubric = rubrics.get(name)
        assert rubric.settled(case(" ... ")).label == "irrelevant"
        assert rubric.settled(case("i am sorry , no", GENERAL)).label == "refused"
        assert rubric.settled(case("press the kib")) is None
        assert (rubric.settled(case("fine", SAFE)) is None) == (name == "relevance")


def test_the_wording_is_the_users_if_wanted(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("Is {answer} bad?\n")
    assert rubrics.get("harm", own).prompt(case("x"), False).text == "Is x bad?"
    own.write_text("no placeholder")
    for name, path in (("harm", own), ("harm", tmp_path / "missing"), ("llama_guard", own)):
        with pytest.raises(InputError, match="--judge_prompt"):
            rubrics.get(name, path)
