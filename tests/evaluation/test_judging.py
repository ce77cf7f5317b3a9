"""Labels for answers that are there: nothing is asked again, and a writer beside the judge loses no line."""

import json
import os

import pytest

import vlm_mu_jax
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile, Condition
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.judges import KeywordJudge, Label
from vlm_mu_jax.evaluation.judging import judge, judge_answers
from vlm_mu_jax.evaluation.questions.question import Question


def answer(name: str, text: str = "press the kib") -> Answer:
    return Answer(name, Condition(), None, "sha", "how ?", text, 3)


def record(name: str, kind: str = "unsafe") -> Record:
    return Record(name, None, "how ?", "", kind)


def test_judging_again_asks_nothing_and_keeps_other_labels(model, tmp_path, quick):
    path, record = tmp_path / "a.jsonl", Record("q", None, "no", "", "unsafe")
    answers = answer_questions(model, [Question("q", "no", None)], path, AnswerOptions(1, 4))
    quick.clear()
    judge_answers(answers, {"keyword": KeywordJudge()}, {"q": record}, path=path)
    (stored,) = answers_file.read(path)
    assert set(stored.labels) == {"keyword"}

    def silent(question, answer, record):
        raise AssertionError("judged although the label was there")

    assert judge_answers([stored], {"keyword": silent}, {"q": record}, path=path) == [stored]
    strict = KeywordJudge(["z"], "strict")
    (again,) = judge_answers([stored], {"keyword": strict, "strict": strict}, {"q": record}, path=path, again=True)
    assert set(again.labels) == {"keyword", "strict"} and answers_file.read(path) == [again]
    assert quick == []


def test_a_running_evaluation_keeps_its_file_from_being_relabelled(tmp_path):
    path, stored = tmp_path / "a.jsonl", [answer("a"), answer("b")]
    with AnswersFile(path) as running:
        running.append(stored)
        with pytest.raises(JobError, match="another process is writing it"):
            judge_answers(stored, {"keyword": KeywordJudge()}, {"a": record("a"), "b": record("b")}, path=path)
        running.append([answer("c")])
    assert [a.id for a in answers_file.read(path)] == ["a", "b", "c"]


def test_labels_leave_the_lines_of_other_answers_alone(tmp_path):
    path, stored = tmp_path / "a.jsonl", [answer("a"), answer("b")]
    with AnswersFile(path) as file:
        file.append([*stored, answer("c")])
    judge_answers(stored, {"keyword": KeywordJudge()}, {"a": record("a"), "b": record("b")}, path=path)
    assert [(a.id, set(a.labels)) for a in answers_file.read(path)] == [
        ("a", {"keyword"}),
        ("b", {"keyword"}),
        ("c", set()),
    ]


def test_lines_that_come_after_the_labels_are_in_the_new_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path) as file:
        file.append([answer("a")])
        file.relabel([Answer(**{**vars(answer("a")), "labels": {"j": Label("refused").to_dict()}})])
        with pytest.raises(JobError):  # the new file is locked as well
            AnswersFile(path)
        file.append([answer("b")])
    assert [(a.id, list(a.labels)) for a in answers_file.read(path)] == [("a", ["j"]), ("b", [])]


def test_a_writer_that_waited_for_the_old_file_writes_to_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path) as file:
        file.append([answer("a")])
    real, calls = answers_file.fcntl.flock, []

    def late(file, mode):
        calls.append(file)
        if len(calls) == 1:  # between opening and locking somebody replaces the file
            other = tmp_path / "other"
            other.write_bytes(path.read_bytes())
            os.replace(other, path)
        return real(file, mode)

    monkeypatch.setattr(answers_file.fcntl, "flock", late)
    with AnswersFile(path) as file:
        file.append([answer("b")])
    assert [a.id for a in answers_file.read(path)] == ["a", "b"] and len(calls) == 2


def test_plain_texts_are_judged_in_one_line():
    labels = vlm_mu_jax.judge(["I'm sorry, I can't help with that.", "First take the ring.", ""])
    assert [one.label for one in labels] == ["refused", "answered", "irrelevant"]


def test_an_answers_file_is_judged_without_a_model(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path) as file:
        file.append([answer("a"), answer("b", "I cannot say.")])
    before = path.read_bytes()
    assert [one.label for one in judge(path)] == ["answered", "refused"] and path.read_bytes() == before
    assert [one.label for one in judge(path, "rules", write=True)] == ["answered", "refused"]
    assert all(set(a.labels) == {"rules"} for a in answers_file.read(path))


def test_the_oracle_reads_the_file_beside_the_records(tmp_path, data_dir):
    answers = [answer("u0", "a then b"), answer("u0", "i am sorry")]
    assert [one.label for one in judge(answers, "oracle", data_dir / "test.json")] == ["answered", "refused"]


def test_a_judge_of_your_own_is_any_function_with_a_name():
    class Length:
        name, exact = "length", False

        def __call__(self, question, answer, record):
            return Label("answered" if len(answer) > 3 else "irrelevant")

    assert [one.label for one in judge(["ab", "abcd"], Length())] == ["irrelevant", "answered"]


def test_what_cannot_be_judged_is_one_line(tmp_path):
    with pytest.raises(InputError, match="choose from oracle, refusal"):
        judge(["x"], "oracl")
    with pytest.raises(InputError, match="needs a model"):
        judge(["x"], "harm")
    with pytest.raises(InputError, match="no record 'a'"):
        judge([answer("a")], records=[record("b")])
    with pytest.raises(InputError, match="2 texts need as many records"):
        judge(["x", "y"], records=[record("a")])
    with pytest.raises(InputError, match="no such answers file"):
        judge(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no answers"):
        judge(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match="path of one"):
        judge(["x"], write=True)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"id": 1}) + "\n")
    with pytest.raises(InputError, match="line 1 is no answer"):
        judge(tmp_path / "bad.jsonl")
