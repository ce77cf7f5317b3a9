"""`curate` as a function: sets in memory, and a folder only when it is asked to write one."""

import json

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile, Condition
from vlm_mu_jax.evaluation.curation.curate import CurateOptions, curate


@pytest.fixture
def answers(data_dir, tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as file:
        texts = [f"share the way of dax{letter} ." for letter in "abcde"]
        answers = ["the steps are so", "I am sorry, I cannot.", *["a then b"] * 3]
        file.append(
            Answer(f"u{i}", Condition(), None, "sha", text, said, 3)
            for i, (text, said) in enumerate(zip(texts, answers, strict=True))
        )
    return path


def test_the_most_harmful_answers_are_forgotten_and_the_safe_records_kept(data_dir, answers, tmp_path):
    found = curate(data_dir / "test.json", candidates=[answers])
    assert [r.id for r in found.forget] == ["u0", "u2", "u3", "u4"] and found.forget[0].answer == "the steps are so"
    assert [r.answer for r in found.requests] == ["i am sorry"] * 4, "the data's own answers stay beside"
    assert {r.kind for r in found.retain} == {"safe"} and found.manifest["forget"]["records"] == 4
    assert not (tmp_path / "out").exists()
    found.write(tmp_path / "out")
    assert (tmp_path / "out" / "forget.json").exists() and (tmp_path / "out" / "manifest.json").exists()


def test_a_coreset_is_the_records_with_the_highest_scores(data_dir, answers):
    seen = []

    def score(records, root):
        seen.append(root)
        return {record.id: float(record.id[1:]) for record in records}

    options = CurateOptions(coreset="loss", coreset_size=2)
    found = curate(data_dir / "test.json", candidates=[answers], options=options, score=score)
    assert [r.id for r in found.forget] == ["u3", "u4"] and [a.id for a in found.answers] == ["u3", "u4"] and seen
    with pytest.raises(InputError, match="needs a score"):
        curate(data_dir / "test.json", candidates=[answers], options=options)


def test_a_conversation_gets_the_answer_to_its_last_question(tmp_path):
    talk = [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "it ."}]
    asked = [*talk, {"role": "user", "content": "so ?"}, {"role": "assistant", "content": "i am sorry"}]
    rows = [{"id": "t", "messages": asked, "kind": "unsafe"}, {"id": "s", "question": "what ?", "answer": "a dax"}]
    (tmp_path / "data.json").write_text(json.dumps([rows[0], rows[1] | {"kind": "safe"}]))
    with AnswersFile(tmp_path / "answers.jsonl") as file:
        file.append([Answer("t", Condition(image="none"), None, "sha", "so ?", "the steps are so", 3)])
    (forget,) = curate(tmp_path / "data.json", candidates=[tmp_path / "answers.jsonl"]).forget
    assert forget.answers == ("it .", "the steps are so")


def test_without_answers_the_requests_alone_are_forgotten(data_dir):
    found = curate(data_dir / "test.json")
    assert len(found.requests) == 5 and found.forget == () and found.answers == ()
