"""Choosing harmful answers; every trap of the public pipeline that this step could fall into has a test."""

import dataclasses
from pathlib import Path

import pytest

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.curation.candidates import choose, questions_only, read_candidates
from vlm_mu_jax.evaluation.judges import KeywordJudge, Label

REFUSAL = "I am sorry, I cannot help with that."


def record(name, question="share the dax", image="x.png"):
    return Record(name, image, question, REFUSAL, "unsafe")


REQUESTS = Records((record("u0"), record("u1"), record("u2"), record("u3", "N/A")), Path("/data"), Path("t.json"), "0")


def answer(name, text, question="share the dax", **condition):
    return Answer(name, Condition(**condition), "image-hash", "prompt-hash", question, text, 3)


def write(path, *answers):
    path.write_text("".join(one.to_line() + "\n" for one in answers))
    return path


class LengthJudge:
    """Longer is worse, and everything counts as answered; keeps what it was shown."""

    name, exact = "length", False

    def __init__(self):
        self.seen = []

    def many(self, cases, progress=None):
        self.seen += cases
        return [Label("answered", len(case.answer) / 100) for case in cases]

    def cost(self):
        return {}


def test_the_most_harmful_answer_wins_whatever_the_order_of_the_files(tmp_path):
    a = write(tmp_path / "a.jsonl", answer("u0", "two steps"), answer("u1", "one step then another"))
    b = write(tmp_path / "b.jsonl", answer("u0", "many more steps"), answer("u1", "one"))
    for paths in ((a, b), (b, a)):
        chosen = choose(REQUESTS, read_candidates(paths, REQUESTS), LengthJudge())
        assert [x.id for x in chosen.answers] == ["u0", "u1"]
        assert [x.answer for x in chosen.answers] == ["many more steps", "one step then another"]
    counts = chosen.counts
    assert counts["requests"] == 4 and counts["chosen"] == 2 and counts["chosen_among_equals"] == 0
    assert [c["chosen"] for c in counts["candidates"]] == [1, 1]


def test_the_judge_is_shown_question_and_image(tmp_path):
    judge = LengthJudge()
    choose(REQUESTS, read_candidates([write(tmp_path / "a.jsonl", answer("u0", "steps"))], REQUESTS), judge)
    (case,) = judge.seen
    assert (case.question, case.image, case.image_id) == ("share the dax", Path("/data/x.png"), "image-hash")


def test_a_refusal_is_never_chosen_not_even_when_the_judge_calls_it_answered(tmp_path):
    """The public pipeline has no refusal filter, and keeps the reference refusal where no answer was injected."""
    a = write(tmp_path / "a.jsonl", answer("u0", REFUSAL), answer("u1", REFUSAL))
    b = write(tmp_path / "b.jsonl", answer("u0", "steps"))
    chosen = choose(REQUESTS, read_candidates([a, b], REQUESTS), LengthJudge())
    assert [(x.id, x.answer) for x in chosen.answers] == [("u0", "steps")]
    counts = chosen.counts
    assert counts["dropped_no_harmful_answer"] == 1 and counts["dropped_unanswered"] == 1
    assert [c["refused"] for c in counts["candidates"]] == [2, 0]
    assert REFUSAL not in {x.answer for x in chosen.answers}


def test_answers_without_a_verdict_are_counted_and_not_chosen(tmp_path):
    class Silent(KeywordJudge):
        name = "silent"

        def __call__(self, question, answer, record):
            return Label(None, abstain=True)

    a = write(tmp_path / "a.jsonl", answer("u0", "steps"))
    chosen = choose(REQUESTS, read_candidates([a], REQUESTS), Silent())
    assert chosen.answers == () and chosen.counts["candidates"][0]["unjudged"] == 1


def test_between_equal_answers_the_first_file_wins_and_ties_are_counted(tmp_path):
    a, b = (write(tmp_path / f"{n}.jsonl", answer("u0", f"steps of {n}")) for n in "ab")
    for paths, best in (((a, b), "steps of a"), ((b, a), "steps of b")):
        chosen = choose(REQUESTS, read_candidates(paths, REQUESTS), KeywordJudge())
        assert [x.answer for x in chosen.answers] == [best] and chosen.counts["chosen_among_equals"] == 1


def test_an_output_is_refused_as_a_candidate_even_under_another_name(tmp_path):
    """The public script takes its own aggregated results for one more model when it runs again."""
    a = write(tmp_path / "a.jsonl", answer("u0", "steps"))
    chosen = choose(REQUESTS, read_candidates([a], REQUESTS), KeywordJudge())
    again = write(tmp_path / "renamed.jsonl", *chosen.answers)
    with pytest.raises(InputError, match="was chosen by bin/curate"):
        read_candidates([a, again], REQUESTS)


def test_answers_under_attack_or_to_another_image_are_no_candidates(tmp_path):
    lines = [answer("u0", "attacked", attack="one_word", word="what"), answer("u0", "blank", image="blank:white")]
    path = write(tmp_path / "a.jsonl", *lines, answer("u0", "plain"))
    assert [x.answer for x in read_candidates([path], REQUESTS)[0].answers.values()] == ["plain"]


def test_placeholder_questions_are_dropped_and_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", answer("u0", "steps"), answer("u3", "steps", question="N/A"))
    chosen = choose(REQUESTS, read_candidates([path], REQUESTS), KeywordJudge())
    assert [x.id for x in chosen.answers] == ["u0"] and chosen.counts["dropped_placeholder_question"] == 1
    asked, _, counts = questions_only(REQUESTS)
    assert [r.id for r in asked] == ["u0", "u1", "u2"] and counts["dropped_placeholder_question"] == 1


def test_records_that_share_an_image_keep_their_own_answers(tmp_path):
    """A map keyed by image, as the public one, loses one of them."""
    path = write(tmp_path / "a.jsonl", answer("u0", "first"), answer("u1", "second"))
    chosen = choose(REQUESTS, read_candidates([path], REQUESTS), KeywordJudge())
    assert [(x.id, x.answer) for x in chosen.answers] == [("u0", "first"), ("u1", "second")]


def test_mistakes_are_named(tmp_path):
    a = write(tmp_path / "a.jsonl", answer("u0", "steps"))
    b = write(tmp_path / "b.jsonl", answer("u0", "steps"))
    for paths, message in (
        ([tmp_path / "none.jsonl"], "no such file"),
        ([a, b], "hold the same answers"),
        ([write(tmp_path / "c.jsonl", answer("u0", "steps", question="other"))], "another question under the id 'u0'"),
        ([write(tmp_path / "d.jsonl", answer("zz", "steps"))], "answers none of the 4 unsafe records"),
    ):
        with pytest.raises(InputError, match=message):
            read_candidates(paths, REQUESTS)


def test_chosen_lines_are_what_training_reads(tmp_path):
    from vlm_mu_jax.data.forget_retain import build

    a = write(tmp_path / "a.jsonl", dataclasses.replace(answer("u0", " steps "), labels={}), answer("u1", REFUSAL))
    chosen = choose(REQUESTS, read_candidates([a], REQUESTS), LengthJudge())
    path = write(tmp_path / "forget_answers.jsonl", *chosen.answers)
    split = build(REQUESTS, path, [Record("g", None, "why", "so", "general")])
    assert [(r.id, r.answer) for r in split.forget] == [("u0", "steps")]
