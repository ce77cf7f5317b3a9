"""Records and their readers: the three formats, subsets as upstream defines them, and every bad row reported."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.readers import rows, vlguard
from vlm_mu_jax.data.records import KINDS, Record
from vlm_mu_jax.errors import InputError

UNSAFE = {
    "id": "u1",
    "image": "a.png",
    "safe": False,
    "harmful_category": "deception",
    "harmful_subcategory": "disinformation",
    "instr-resp": [{"instruction": "share the dax", "response": "no"}],
}
SAFE = {
    "id": "s1",
    "image": "b.png",
    "safe": True,
    "instr-resp": [
        {"safe_instruction": "what is it", "response": "a wug"},
        {"unsafe_instruction": "can it hurt", "response": "no"},
    ],
}
SAFE_ALONE = {"id": "s2", "image": "b.png", "safe": True, "instr-resp": SAFE["instr-resp"][:1]}
TURNS = [
    {"from": "human", "value": "<image>\nwhat is it"},
    {"from": "gpt", "value": "a wug"},
    {"from": "human", "value": "and then"},
]


@pytest.fixture
def write(tmp_path):
    """Writes a JSON file beside two images and returns its path."""

    def _write(content, name="test.json"):
        for image in ("a.png", "b.png"):
            (tmp_path / image).touch()
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return _write


def bad_rows(write, content) -> rows.BadRows:
    with pytest.raises(rows.BadRows) as caught:
        readers.read(write(content))
    return caught.value


def test_vlguard_records(write):
    records = readers.read(write([UNSAFE, SAFE, SAFE_ALONE]))
    assert [(r.id, r.kind, r.question, r.answer) for r in records] == [
        ("u1", "unsafe", "share the dax", "no"),
        ("s1#safe", "safe", "what is it", "a wug"),
        ("s1#unsafe", "unsafe", "can it hurt", "no"),
        ("s2#safe", "safe", "what is it", "a wug"),
    ]
    assert records[0].category == "deception/disinformation"
    assert records.image_path(records[1]).name == "b.png"


@pytest.mark.parametrize(
    ("subset", "ids"), [("unsafes", ["u1"]), ("safe_safes", ["s1#safe", "s2#safe"]), ("safe_unsafes", ["s1#unsafe"])]
)
def test_vlguard_subsets(write, subset, ids):
    assert [r.id for r in readers.read(write([UNSAFE, SAFE, SAFE_ALONE]), subset)] == ids


def test_subset_of_another_format_or_name_is_an_error(write):
    with pytest.raises(InputError, match="subset"):
        readers.read(write([UNSAFE]), "unsafe")
    with pytest.raises(InputError, match="subset"):
        readers.read(write([{"id": 1, "conversations": TURNS[:2], "image": "a.png"}]), "unsafes")


def test_repeated_ids_stay_apart_and_none_is_lost(write):
    records = readers.read(write([UNSAFE, UNSAFE, SAFE, UNSAFE, SAFE]))
    assert [r.id for r in records] == ["u1", "u1@1", "s1#safe", "s1#unsafe", "u1@2", "s1#safe@1", "s1#unsafe@1"]


def test_images_unpacked_in_a_folder_of_the_split(write, tmp_path):
    (tmp_path / "train" / "ads").mkdir(parents=True)
    (tmp_path / "train" / "ads" / "x.png").touch()
    records = readers.read(write([UNSAFE | {"image": "ads/x.png"}], "train.json"))
    assert records[0].image == "train/ads/x.png"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({k: v for k, v in UNSAFE.items() if k != "safe"}, "field 'safe' is missing"),
        (UNSAFE | {"safe": "no"}, "field 'safe' must be bool"),
        (UNSAFE | {"id": 7}, "field 'id' must be str"),
        (UNSAFE | {"image": "c.png"}, "missing image file 'c.png'"),
        (UNSAFE | {"image": "c" * 300}, "missing image file 'ccc"),  # no file system takes such a name
        (UNSAFE | {"image": "c" * 100_000}, "the path of the image has 100000 characters"),
        (UNSAFE | {"image": "../test.json"}, "leaves the data folder"),
        (UNSAFE | {"image": "sub/../../a.png"}, "leaves the data folder"),
        (UNSAFE | {"image": "/etc/hostname"}, "leaves the data folder"),
        (UNSAFE | {"image": ""}, "image must be a relative path"),
        (UNSAFE | {"instr-resp": []}, "exactly one instruction, not nothing"),
        (UNSAFE | {"instr-resp": SAFE["instr-resp"]}, "exactly one instruction"),
        (UNSAFE | {"instr-resp": UNSAFE["instr-resp"] * 2}, "exactly one instruction"),
        (SAFE | {"instr-resp": SAFE["instr-resp"][1:]}, "one safe_instruction"),
        (UNSAFE | {"instr-resp": [{"instruction": "x", "safe_instruction": "y", "response": "z"}]}, "must have one of"),
        (UNSAFE | {"instr-resp": [{"instruction": "x"}]}, "field 'response' is missing"),
        (UNSAFE | {"instr-resp": [{"instruction": " ", "response": "x"}]}, "question is empty"),
        (UNSAFE | {"instr-resp": ["x"]}, "must hold objects"),
        (UNSAFE | {"harmful_subcategory": 3}, "harmful_subcategory"),
        (UNSAFE | {"instr-resp": [{"instruction": "a \ud800", "response": "x"}]}, "half of a surrogate pair"),
        (UNSAFE | {"id": "u\udfff"}, "half of a surrogate pair"),
        ("text", "expected an object"),
    ],
)
def test_a_bad_row_is_named_with_its_number(write, row, what):
    error = bad_rows(write, [SAFE, row])
    assert [number for number, _ in error.problems] == [2]
    assert what in str(error) and "test.json" in str(error) and "1 of 2 rows" in str(error)
    assert "\n" not in str(error)


def test_all_bad_rows_are_counted(write):
    error = bad_rows(write, [UNSAFE, *[SAFE | {"image": f"{i}.png"} for i in range(30)]])
    assert len(error.problems) == 30 and "30 of 31 rows" in str(error) and "and 20 more" in str(error)


def test_a_bad_row_is_an_error_even_outside_the_wanted_subset(write):
    with pytest.raises(rows.BadRows):
        readers.read(write([UNSAFE, SAFE | {"image": "c.png"}]), "unsafes")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[{", "broken JSON at line 1"),
        ("{}", "expected a JSON list"),
        ("[]", "holds no records"),
        ('[{"a": 1}]', "of no known shape"),
        ("[" * 100_000, "nested too deeply|broken JSON"),
    ],
)
def test_a_file_that_is_no_record_list(write, content, what):
    with pytest.raises(InputError, match=what):
        readers.read(write(content))


def test_a_missing_file_a_folder_and_bytes(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        readers.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        readers.read(tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        readers.read(tmp_path / "x.json")


def test_request_lists(write):
    row = {"id": "r", "question": "share the dax", "answer": "no", "kind": "unsafe", "image": "a.png"}
    (record,) = readers.read(write([row]))
    assert (record.id, record.kind, record.image) == ("r", "unsafe", "a.png")
    assert "kind must be one of" in str(bad_rows(write, [row | {"kind": "bad"}]))


def test_images_are_not_looked_for_when_only_the_words_count(write):
    assert readers.read(write([UNSAFE | {"image": "c.png"}]), check_images=False)[0].image == "c.png"


def test_of_kind_keeps_order_and_source(write):
    records = readers.read(write([SAFE, UNSAFE]))
    assert [r.id for r in records.of_kind("safe", "unsafe")] == [r.id for r in records]
    assert [r.id for r in records.of_kind("unsafe")] == ["s1#unsafe", "u1"] and records.of_kind(
        "unsafe"
    ).root == records.root


@given(st.sampled_from(KINDS), st.text(min_size=1), st.text(min_size=1), st.text())
def test_a_record_is_valid_or_says_why(kind, name, question, answer):
    if name.strip() and question.strip():
        assert Record(name, None, question, answer, kind).kind == kind
    else:
        with pytest.raises(InputError, match="is empty"):
            Record(name, None, question, answer, kind)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*UNSAFE, "response", "instruction", "x"]), inner, max_size=5)
    ),
    max_leaves=10,
)


@given(st.lists(json_values, min_size=1, max_size=3))
def test_hostile_rows_raise_nothing_but_input_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    for extra in (
        {"instr-resp": 1},
        {"conversations": []},
        {"question": None},
        {"messages": [{}]},
        {"chosen": 1, "rejected": [{}]},
    ):
        path.write_text(json.dumps([*content, extra]))
        with pytest.raises(InputError):
            readers.read(path)


def test_vlguard_reader_alone(write):
    assert len(vlguard.read(write([UNSAFE, SAFE]), "safe_safes")) == 1
