"""A long file read row by row gives the records of the same file read whole."""

import json

import pytest

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.mixed import Mixed
from vlm_mu_jax.data.readers import long_files
from vlm_mu_jax.data.readers.rows import BadRows
from vlm_mu_jax.errors import InputError


def rows(count=40):
    talk = [{"from": "human", "value": "what is ü [1, {2}] ?"}, {"from": "gpt", "value": 'a "ring" \u2028 日本 \\ .'}]
    made = [{"id": f"r{i % 37}", "conversations": [*talk * (1 + i % 3)], "kind": "general"} for i in range(count)]
    made[3]["conversations"] = made[3]["conversations"][:1]  # no answer
    made[5]["conversations"] = [{"from": "gpt", "value": "hello"}, *talk]  # starts with an answer
    return made


FORMS = {
    "a.json": lambda r: json.dumps(r),
    "b.json": lambda r: json.dumps(r, indent=2, ensure_ascii=False),
    "bom.json": lambda r: "\ufeff" + json.dumps(r, ensure_ascii=False),
    "c.jsonl": lambda r: "\n".join(json.dumps(one, ensure_ascii=False) for one in r) + "\n\n",
    "d.json": lambda r: "\n".join(json.dumps(one) for one in r),  # JSON lines under another name
}


@pytest.mark.parametrize("name", FORMS)
def test_the_records_are_those_of_the_file_read_whole(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.write_text(FORMS[name](rows()), encoding="utf-8")
    whole = readers.read(file)
    monkeypatch.setattr(long_files, "LONG", 0)
    monkeypatch.setattr(long_files, "_WINDOW", 64)  # rows are longer than a window
    found = readers.read(file)
    assert isinstance(found.items, long_files.IndexedItems) and tuple(found) == tuple(whole)
    assert (found.sha256, found.notes, found.root) == (whole.sha256, whole.notes, whole.root)
    assert found[-1] == whole[-1] and tuple(found[3:7]) == tuple(whole[3:7])
    assert tuple(found.rebased(tmp_path.parent)) == tuple(whole.rebased(tmp_path.parent))
    assert [r.id for r in found][37:] == ["r0@1", "r1@1", "r2@1"]
    mixed = Mixed.of(found, [whole[0]])
    assert list(mixed) == [*whole, whole[0]] and len(mixed.usable()) == 40 and mixed.kinds() == {"general": 41}


def test_bad_rows_are_listed_or_left_out_and_counted(tmp_path, monkeypatch):
    bad = rows()
    bad[7]["conversations"] = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": ""}]
    bad[20] = 5
    (tmp_path / "a.json").write_text(json.dumps(bad))
    whole = readers.read(tmp_path / "a.json", on_bad="skip")
    monkeypatch.setattr(long_files, "LONG", 0)
    with pytest.raises(BadRows, match="2 of 40 rows are bad: row 8: .*empty answer; row 21: expected an object"):
        readers.read(tmp_path / "a.json")
    found = readers.read(tmp_path / "a.json", on_bad="skip")
    assert tuple(found) == tuple(whole) and found.skipped == whole.skipped


@pytest.mark.parametrize(
    ("text", "what"), [('[{"question": "a"}, {"que', "byte 20"), ('{"question": "a"}\n{"x', "line 2")]
)
def test_a_broken_file_is_named_with_the_place(tmp_path, monkeypatch, text, what):
    monkeypatch.setattr(long_files, "LONG", 0)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=f"a.json: .*{what}"):
        readers.read(tmp_path / "a.json")
