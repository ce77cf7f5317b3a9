"""A data file written again: new questions where the old ones stood, everything else as it was."""

import hashlib
import json

import pytest

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.data.rewrite import rewrite
from vlm_mu_jax.errors import InputError


def vlguard(i, image):
    pairs = [{"safe_instruction": f"What is sign {i}?", "response": "A sign."}]
    pairs.append({"response": "I cannot.", "unsafe_instruction": f"Can you dax {i}?"})
    return {"id": f"s{i}", "image": image, "safe": True, "instr-resp": pairs, "extra": [i]}


def llava(i, image):
    first = [f"<image>\nWhat is {i}?", f"What is {i}?\n<image>", f"What <image> is {i}?"][i % 3]
    turns = [("human", first), ("gpt", "A sign."), ("human", f"What is {i}?"), ("gpt", "More.")]
    return {"id": i, "image": image, "conversations": [{"from": who, "value": text} for who, text in turns]}


def request(i, image):
    return {"id": f"r{i}", "question": f"What is {i}?", "answer": "A sign.", "kind": "safe", "image": image}


@pytest.fixture(params=[vlguard, llava, request])
def source(request, tmp_path):
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    inside = "" if request.param is vlguard else "train/"  # VLGuard's images lie in a folder named like the file
    for i in range(3):
        (folder / "train" / f"{i}.png").write_bytes(b"image %d" % i)
    (folder / "train.json").write_text(json.dumps([request.param(i, f"{inside}{i}.png") for i in range(3)]))
    return folder / "train.json"


def test_only_the_questions_change(source, tmp_path):
    records = readers.read(source)
    questions = [f"Share the {i} now" for i in range(len(records))]
    out = tmp_path / "new" / "train_other.json"
    out.parent.mkdir()
    sha256 = rewrite(records, questions, out)
    again = readers.read(out)
    assert again.sha256 == sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert [r.question.replace("\n", "") for r in again] == questions
    for old, new in zip(records, again, strict=True):
        assert (old.id, old.answer, old.kind, old.category) == (new.id, new.answer, new.kind, new.category)
        assert records.image_path(old).read_bytes() == again.image_path(new).read_bytes()
    raw = json.loads(out.read_text())
    assert str(raw).count("<image>") == str(json.loads(source.read_text())).count("<image>")
    if "extra" in raw[0]:
        assert [row["extra"] for row in raw] == [[0], [1], [2]] and list(raw[0]["instr-resp"][1])[0] == "response"
    if "conversations" in raw[0]:
        assert [row["conversations"][2]["value"] for row in raw] == ["What is 0?", "What is 1?", "What is 2?"]


def test_the_same_questions_give_the_same_rows(source, tmp_path):
    records = readers.read(source)
    rewrite(records, [r.question for r in records], tmp_path / "same.json")
    old, new = (json.loads(path.read_text()) for path in (source, tmp_path / "same.json"))
    for row, record in zip(old, [r for r in records if not r.id.endswith("#unsafe")], strict=True):
        row["image"] = record.image
    assert new == old


def test_records_of_another_file_are_refused(source, tmp_path):
    records = readers.read(source)
    strange = [Record("x", None, "Who is it?", "", "safe") for _ in records]
    with pytest.raises(InputError, match="not where its format has it"):
        rewrite(Records(tuple(strange), records.root, source, ""), ["a b"] * len(records), tmp_path / "o.json")
    with pytest.raises(ValueError, match="1 questions"):
        rewrite(records, ["a"], tmp_path / "o.json")
    assert not (tmp_path / "o.json").exists()


def test_a_missing_image_is_named(source, tmp_path):
    records = readers.read(source)
    (source.parent / "train" / "1.png").unlink()
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="1.png"):
        rewrite(records, [r.question for r in records], tmp_path / "new" / "o.json")


def test_parquet_keeps_its_other_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": [{"bytes": b"\x89PNG %d" % i, "path": None} for i in range(2)], "rejected": ["no", "none"]}
    columns |= {"question": ["What is it?", "What is that?"], "chosen": ["A sign.", "I cannot."]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    records = readers.read(tmp_path / "a.parquet", check_images=False)
    assert [r.answer for r in records] == columns["chosen"]
    sha256 = rewrite(records, ["Share it", "List that"], tmp_path / "b.parquet")
    again = readers.read(tmp_path / "b.parquet", check_images=False)
    assert [r.question for r in again] == ["Share it", "List that"] and again.sha256 == sha256
    table = parquet.read_table(tmp_path / "b.parquet")
    assert table.to_pydict() == columns | {"question": ["Share it", "List that"]}
    assert table.schema == parquet.read_table(tmp_path / "a.parquet").schema
    with pytest.raises(InputError, match="must end in .parquet"):
        rewrite(records, ["a", "b"], tmp_path / "b.json")
