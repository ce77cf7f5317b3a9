"""Files of questions in every form that people have them in."""

import json

import pytest
from PIL import Image

from vlm_mu_jax.data import questions
from vlm_mu_jax.data.readers.rows import BadRows
from vlm_mu_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    return tmp_path


def lines(*rows):
    return "\n".join(map(json.dumps, rows)) + "\n"


# name of the file, its content, (id, question, image, answer, kind) of its first record
FORMS = {
    "a question a line": ("q.txt", "What is it?\n\nAnd this?\n", ("1", "What is it?", None, "", "general")),
    "JSON lines of questions": (
        "q.jsonl",
        lines({"question": "What?"}, {"question": "Why?"}),
        ("1", "What?", None, "", "general"),
    ),
    "CSV with prompt and image": (
        "q.csv",
        'prompt,image\n"What, now?",a.png\nWhy?,\n',
        ("1", "What, now?", "a.png", "", "general"),
    ),
    "CSV in our own columns": (
        "q.csv",
        "id,question,answer,kind\nx,What?,No.,unsafe\ny,Why?,,safe\n",
        ("x", "What?", None, "No.", "unsafe"),
    ),
    "TSV": ("q.tsv", "Goal\timage_path\nWhat?\ta.png\nWhy?\t\n", ("1", "What?", "a.png", "", "general")),
    "JSON without answers": (
        "q.json",
        json.dumps([{"id": "x", "question": "What?", "kind": "safe"}] * 2),
        ("x", "What?", None, "", "safe"),
    ),
    "numbers as ids": (
        "q.json",
        json.dumps([{"id": 7, "question": "What?"}, {"id": 8, "question": "Why?"}]),
        ("7", "What?", None, "", "general"),
    ),
    "prompt for question": (
        "q.json",
        json.dumps([{"prompt": "What?"}, {"prompt": "Why?"}]),
        ("1", "What?", None, "", "general"),
    ),
    "instruction": ("q.json", json.dumps([{"instruction": "What?"}] * 2), ("1", "What?", None, "", "general")),
    "text": ("q.jsonl", lines({"text": "What?"}, {"text": "Why?"}), ("1", "What?", None, "", "general")),
    "a list of texts": ("q.json", json.dumps(["What?", "Why?"]), ("1", "What?", None, "", "general")),
    "one-turn messages": (
        "q.jsonl",
        lines(*[{"messages": [{"role": "user", "content": "What?"}]}] * 2),
        ("1", "What?", None, "", "general"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read(folder, form):
    name, content, expected = FORMS[form]
    (folder / name).write_text(content)
    records = questions.read(folder / name)
    first = records[0]
    assert (first.id, first.question, first.image, first.answer, first.kind) == expected and len(records) == 2
    assert not records.notes
    given = questions.read(folder / name, kind="unsafe")
    assert given[0].kind == (expected[-1] if '"kind"' in content or ",kind" in content else "unsafe")


def test_parquet_is_read(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = (folder / "a.png").read_bytes()
    rows = [{"prompt": "What?", "image": {"bytes": content, "path": "x.png"}}, {"prompt": "Why?", "image": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "q.parquet")
    records = questions.read(folder / "q.parquet")
    assert [r.question for r in records] == ["What?", "Why?"] and records[1].image is None
    assert records.image_path(records[0]).read_bytes() == content


def test_columns_are_named_by_the_caller(folder):
    (folder / "q.csv").write_text("Behavior,file,Tag\nWhat?,a.png,x\n")
    columns = questions.parse_columns("question=Behavior, image=file,category=Tag")
    (record,) = questions.read(folder / "q.csv", "unsafe", columns)
    assert (record.question, record.image, record.category) == ("What?", "a.png", "x")
    for text in ("question", "=x", "question="):
        with pytest.raises(InputError, match="OURS=THEIRS"):
            questions.parse_columns(text)
    assert questions.parse_columns("") == {}


def test_wrong_kinds_and_rows(folder):
    (folder / "q.csv").write_text("prompt,image\nWhat?,none.png\nWhy?,\n")
    with pytest.raises(InputError, match="--kind=bad"):
        questions.read(folder / "q.csv", kind="bad")
    with pytest.raises(BadRows, match="missing image file 'none.png'"):
        questions.read(folder / "q.csv")
    records = questions.read(folder / "q.csv", on_bad="skip")
    assert [r.id for r in records] == ["2"] and records.skipped[0][0] == 1
    assert len(questions.read(folder / "q.csv", check_images=False)) == 2
    (folder / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="holds no records"):
        questions.read(folder / "empty.txt")


def test_a_column_that_is_not_there_is_refused_with_the_near_miss(folder):
    (folder / "two.csv").write_text("foo,Goal\nx,How many?\n")
    with pytest.raises(InputError, match="no column 'Gaol'; did you mean Goal"):
        questions.read(folder / "two.csv", "unsafe", {"question": "Gaol"})
    with pytest.raises(InputError, match="there is no 'quesion'"):
        questions.parse_columns("quesion=foo")
