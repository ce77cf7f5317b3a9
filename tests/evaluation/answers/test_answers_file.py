"""The answers file: a kill at any byte costs at most the torn line, no answer is kept twice, one writer at a time."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.small_disk import small_disk
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer, AnswersFile, Condition

texts = st.text(max_size=12)
answers = st.builds(
    Answer,
    id=texts,
    condition=st.builds(Condition, word=texts | st.none(), shot=st.integers(0, 3)),
    image_id=texts | st.none(),
    prompt_sha=texts,
    question=texts,
    answer=texts,
    tokens=st.integers(0, 9),
    labels=st.dictionaries(texts, st.fixed_dictionaries({"label": texts}), max_size=2),
)
some = st.lists(answers, min_size=1, max_size=6, unique_by=lambda a: a.key)
each_in_a_new_file = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)


def answer(name: str, text: str = "x") -> Answer:
    return Answer(name, Condition(), None, "0", "q", text, 1)


@each_in_a_new_file
@given(some)
def test_what_is_written_is_read(tmp_path, wanted):
    path = tmp_path / "a.jsonl"
    path.unlink(missing_ok=True)
    with AnswersFile(path) as file:
        file.append(wanted[:2])
        file.append(wanted[2:])
    assert answers_file.read(path) == wanted
    assert all(json.loads(line) for line in path.read_text().splitlines() if line)


@each_in_a_new_file
@given(some, st.data())
def test_a_kill_at_any_byte_loses_no_complete_line(tmp_path, wanted, data):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"")
    with AnswersFile(path) as file:
        file.append(wanted)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    assert answers_file.read(path) == wanted[:complete]
    with AnswersFile(path) as file:
        assert file.answers == wanted[:complete]
        file.append(wanted)  # as a resumed run would: what is there stays, the rest is added
    assert path.read_bytes() == whole


def test_no_duplicates(tmp_path):
    with AnswersFile(tmp_path / "a.jsonl") as file:
        file.append([answer("a"), answer("a", "later"), answer("b")])
        file.append([answer("a", "again")])
    assert [(a.id, a.answer) for a in answers_file.read(tmp_path / "a.jsonl")] == [("a", "x"), ("b", "x")]


def test_a_damaged_line_before_the_last_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(answer("a").to_line() + "\n{broken\n" + answer("b").to_line() + "\n")
    for use in (answers_file.read, AnswersFile):
        with pytest.raises(InputError, match="line 2"):
            use(path)


def test_two_writers_exclude_each_other(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path), pytest.raises(JobError, match="another process"):
        AnswersFile(path)
    AnswersFile(path).__exit__()


def test_a_missing_file_holds_nothing(tmp_path):
    assert answers_file.read(tmp_path / "none.jsonl") == []


def test_rewrite_replaces_at_once(tmp_path):
    path = tmp_path / "a.jsonl"
    answers_file.rewrite(path, [answer("a")])
    answers_file.rewrite(path, [answer("b"), answer("c")])
    assert [a.id for a in answers_file.read(path)] == ["b", "c"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("act", ["append", "arrange"])
def test_a_full_disk_names_the_file_and_keeps_what_it_held(tmp_path, act):
    path = tmp_path / "a.jsonl"
    some = [answer("a"), answer("b"), answer("c")]
    answers_file.rewrite(path, some[:2])
    with small_disk(99), pytest.raises(OSError, match=f"File too large: '{path}'"), AnswersFile(path) as file:
        file.append(some[2:]) if act == "append" else file.arrange([some[1].key, some[0].key])
    assert [one.id for one in answers_file.read(path)] == ["a", "b"]


def test_the_line_has_the_documented_fields():
    line = json.loads(
        Answer("r", Condition("one_word", "question_start", "what", 1), "im", "sha", "q?", "a", 3).to_line()
    )
    assert list(line) == ["id", "condition", "image_id", "prompt_sha", "question", "answer", "tokens", "labels"]
    assert line["condition"] == {
        "attack": "one_word",
        "position": "question_start",
        "word": "what",
        "shot": 1,
        "image": "own",
    }
