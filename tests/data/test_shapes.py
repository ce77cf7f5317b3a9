"""Every shape of training rows: what is read, what is done to it, and what is refused, row by row."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.readers import messages as spoken
from vlm_mu_jax.data.readers import shapes
from vlm_mu_jax.data.readers.rows import BadRows
from vlm_mu_jax.data.records import ImagePart, Record, Turn
from vlm_mu_jax.errors import InputError

A, B = ImagePart("a.png"), ImagePart("b.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    return folder


@pytest.fixture
def read(folder):
    """Reads rows written as a file."""

    def _read(*rows, name="data.json", **options):
        lines = "\n".join(map(json.dumps, rows)) + "\n"
        (folder / name).write_text(lines if name.endswith("l") else json.dumps(rows))
        return readers.read(folder / name, **options)

    return _read


def llava(*turns, **row):
    speakers = {"q": "human", "a": "gpt", "s": "system"}
    return {"conversations": [{"from": speakers[who], "value": text} for who, text in turns], **row}


def openai(*turns, **row):
    roles = {"q": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": roles[who], "content": content} for who, content in turns], **row}


def turns(*texts):
    """Turns that alternate; a tuple is a turn of several parts."""
    return tuple(
        Turn(("user", "assistant")[i % 2], text if isinstance(text, tuple) else (text,)) for i, text in enumerate(texts)
    )


FOUR = (("q", "one"), ("a", "two"), ("q", "three"), ("a", "four"))


# The rows of the table that a reader of other people's files has to get right: (row, turns, system, note).
GOOD = {
    "four turns": (llava(*FOUR), turns("one", "two", "three", "four"), None, None),
    "starts with a gpt turn": (
        llava(("a", "zero"), *FOUR),
        turns("one", "two", "three", "four"),
        None,
        spoken.SKIPPED_ANSWER,
    ),
    "a system turn": (llava(("s", "be kind"), *FOUR[:2]), turns("one", "two"), "be kind", None),
    "a system prompt of the row": (llava(*FOUR[:2], system_prompt="be kind"), turns("one", "two"), "be kind", None),
    "images as a list": (
        llava(("q", "<image>\none"), ("a", "two"), image=["a.png"]),
        turns((A, "one"), "two"),
        None,
        None,
    ),
    "two images": (
        llava(("q", "<image><image>\none"), ("a", "two"), image=["a.png", "b.png"]),
        turns((A, B, "one"), "two"),
        None,
        None,
    ),
    "a mark in the second question": (
        llava(("q", "one"), ("a", "two"), ("q", "and <image> this"), ("a", "four"), image="a.png"),
        turns("one", "two", ("and ", A, " this"), "four"),
        None,
        None,
    ),
    "an image without a mark": (
        llava(*FOUR, image="a.png"),
        turns((A, "one"), "two", "three", "four"),
        None,
        spoken.IMAGE_FIRST,
    ),
    "an empty image": (llava(*FOUR[:2], image=""), turns("one", "two"), None, None),
    "a text that mentions the mark": (
        llava(("q", "what is <image>?"), ("a", "a mark: <image>")),
        turns("what is < image >?", "a mark: < image >"),
        None,
        spoken.MENTIONED,
    ),
    "ends with a question": (llava(*FOUR[:3]), turns("one", "two", "three"), None, None),
    "user and assistant": (
        {"conversations": [{"from": "user", "value": "one"}, {"from": "assistant", "value": "two"}]},
        turns("one", "two"),
        None,
        None,
    ),
    "pairs in one object": (
        {"conversation": [{"human": "one", "assistant": "two"}, {"human": "three", "assistant": "four"}]},
        turns("one", "two", "three", "four"),
        None,
        None,
    ),
    "a dialogue beside the plain question": (
        {"question": "plain", "dialogue": openai(*FOUR[:3])["messages"], "image_path": "a.png"},
        turns((A, "one"), "two", "three"),
        None,
        spoken.IMAGE_FIRST,
    ),
    "messages": (openai(("s", "be kind"), *FOUR), turns("one", "two", "three", "four"), "be kind", None),
    "messages with images": (
        openai(("q", "<image>one"), ("a", "two"), ("q", "three<image>"), ("a", "four"), images=["a.png", "b.png"]),
        turns((A, "one"), "two", ("three", B), "four"),
        None,
        None,
    ),
    "parts": (
        openai(
            ("q", [{"type": "image"}, {"type": "text", "text": "one"}]),
            ("a", [{"type": "text", "text": "two"}]),
            images=["a.png"],
        ),
        turns((A, "one"), "two"),
        None,
        None,
    ),
    "parts with their own images": (
        openai(
            ("q", [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "b.png"}}]), ("a", "two")
        ),
        turns(("one", B), "two"),
        None,
        None,
    ),
    "alpaca": (
        {"instruction": "one", "input": "more", "output": "two", "history": [["zero", "yes"]]},
        turns("zero", "yes", "one\nmore", "two"),
        None,
        None,
    ),
    "alpaca without input": ({"instruction": "one", "input": "", "output": "two"}, turns("one", "two"), None, None),
    "query and response": ({"query": "one", "response": "two", "system": "s"}, turns("one", "two"), "s", None),
    "prompt and completion": (
        {"prompt": [{"role": "user", "content": "one"}], "completion": [{"role": "assistant", "content": "two"}]},
        turns("one", "two"),
        None,
        None,
    ),
    "a label": (openai(*FOUR[:2], label=False), turns("one", "two"), None, shapes.LABELLED),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("file", ["data.json", "data.jsonl"])
def test_a_row_is_read(read, name, file):
    row, expected, system, note = GOOD[name]
    records = read(row, row, name=file)
    assert [r.turns for r in records] == [expected, expected] and records[0].system == system
    assert records.notes == ({note: 2} if note else {})
    assert [r.id for r in records] == ["1", "2"]  # no id: the row's number
    assert (records[0].kind, records[0].source) == ("general", shapes.shape_of(row))


BAD = {
    "two marks, one image": (
        llava(("q", "<image><image>one"), ("a", "two"), image="a.png"),
        "2 <image> marks for 1 image",
    ),
    "one mark, two images": (
        llava(("q", "<image>one"), ("a", "b"), image=["a.png", "b.png"]),
        "1 <image> mark for 2 im",
    ),
    "a missing image": (llava(("q", "<image>one"), ("a", "two"), image="c.png"), "missing image file 'c.png'"),
    "an image part of nothing": (openai(("q", [{"type": "image"}]), ("a", "two")), "names no image"),
    "an empty answer": (llava(("q", "one"), ("a", " ")), "turn 2 is an empty answer"),
    "an empty output": ({"instruction": "one", "output": ""}, "turn 2 is an empty answer"),
    "two questions in a row": (llava(("q", "one"), ("q", "two")), "turn 2 is the user's behind the user's"),
    "a system text in the middle": (llava(*FOUR[:2], ("s", "be kind")), "turn 3 is the system's"),
    "answers alone": (llava(("a", "zero")), "must have a question"),
    "no messages": (llava(), "must have a question"),
    "a tool": ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 is by 'tool'"),
    "a video": (openai(("q", [{"type": "video"}])), "'video' is neither text nor image"),
    "videos": (openai(*FOUR, videos=["a.mp4"]), "holds videos"),
    "no text": ({"conversations": [{"from": "human"}]}, "field 'value' is missing"),
    "no speaker": ({"conversations": [{"value": "x"}]}, "neither 'role' nor 'from'"),
    "text for messages": ({"messages": "x"}, "must be a list of messages"),
    "an image in an answer": (
        llava(("q", "<image>"), ("a", "<image>"), image=["a.png", "b.png"]),
        "only questions may",
    ),
    "a web address": (llava(("q", "one"), ("a", "two"), image="https://x.org/a.png"), "web address"),
    "a system text twice": (llava(("s", "x"), *FOUR, system="y"), "differ"),
    "a bad kind": (llava(*FOUR, kind="evil"), "kind must be one of"),
    "a bad id": (llava(*FOUR, id=True), "'id'"),
    "no question": ({"question": None, "answer": "x"}, "of no shape known|has no question"),
    "a bad history": ({"query": "one", "response": "two", "history": ["x"]}, "history must hold pairs"),
    "not base64": (llava(("q", "one"), ("a", "two"), image="data:image/png;base64,!"), "not base64"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_stops_or_is_left_out_and_counted(read, name):
    row, what = BAD[name]
    good = GOOD["four turns"][0]
    with pytest.raises(BadRows, match=what) as caught:
        read(good, row)
    assert [number for number, _ in caught.value.problems] == [2]
    records = read(good, row, good, on_bad="skip")
    assert [r.id for r in records] == ["1", "3"] and len(records.skipped) == 1 and records.skipped[0][0] == 2
    with pytest.raises(InputError, match=what):
        read(row, row, on_bad="skip")


def test_other_ways_with_bad_rows_are_refused(read):
    with pytest.raises(InputError, match="on_bad='ignore'"):
        read(GOOD["messages"][0], on_bad="ignore")


PAIRS = {
    "texts": {"prompt": "one", "chosen": "good", "rejected": "bad"},
    "a question": {"question": "one", "chosen": "good", "rejected": "bad"},
    "an instruction": {"instruction": "one", "chosen": "good", "rejected": "bad"},
    "messages behind a conversation": {
        "conversations": [{"from": "human", "value": "one"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    "messages behind a prompt": {
        "prompt": [{"role": "user", "content": "one"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    },
    "whole conversations": {
        name: [{"role": "user", "content": "one"}, {"role": "assistant", "content": text}]
        for name, text in (("chosen", "good"), ("rejected", "bad"))
    },
    "whole conversations under longer names": {
        f"{name}_messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": text}]
        for name, text in (("chosen", "good"), ("rejected", "bad"))
    },
    "another answer": {**openai(("q", "one"), ("a", "good")), "rejected_response": "bad"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_preference_pairs(read, name):
    (record,) = read(PAIRS[name])
    assert record.turns == turns("one", "good") and record.rejected == "bad"


def test_a_pair_with_images_and_one_that_is_none(read):
    (record,) = read({**PAIRS["texts"], "images": ["a.png"]})
    assert record.turns == turns((A, "one"), "good")
    with pytest.raises(BadRows, match="differ before"):
        read({**PAIRS["whole conversations"], "rejected": [{"role": "user", "content": "x"}] * 2})


def test_columns_are_renamed_and_a_kind_is_given(read):
    (record,) = read(
        {"Behavior": "one", "picture": "b.png"}, columns={"question": "Behavior", "image": "picture"}, kind="unsafe"
    )
    assert record == Record("1", "b.png", "one", "", "unsafe", source="question")


def test_images_lie_where_the_caller_says(read, folder):
    (folder / "sub").mkdir(exist_ok=True)
    (record,) = read({**GOOD["alpaca"][0], "image": "a.png"}, name="sub/x.json", root=folder)
    assert record.image == "a.png"


def test_images_inside_a_row_are_unpacked(read, folder):
    content = (folder / "a.png").read_bytes()
    address = "data:image/png;base64," + base64.b64encode(content).decode()
    records = read(openai(("q", [{"type": "image_url", "image_url": {"url": address}}, "one"]), ("a", "two")))
    assert records.image_path(records[0]).read_bytes() == content


def test_parquet_with_images_inside(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = (folder / "a.png").read_bytes()
    rows = [openai(("q", "<image><image>one"), ("a", "two"), images=[{"bytes": content, "path": None}] * 2)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    records = readers.read(folder / "rows.parquet")
    assert records[0].turns[1:] == turns("x", "two")[1:] and len(records[0].images) == 2
    assert all(path.read_bytes() == content for path in records.image_paths(records[0]))


# Any conversation, written in every shape that can hold it, is read as the same record.
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and text and "<image>" not in text
)
conversations = st.lists(st.tuples(words, st.sampled_from(["", "a.png", "b.png"]), words), min_size=1, max_size=4)


@given(conversations, st.one_of(st.none(), words))
def test_every_shape_of_a_conversation_is_the_same_record(folder, talk, system):
    images = [image for _, image, _ in talk if image]
    marked = [(f"<image>\n{question}" if image else question, answer) for question, image, answer in talk]
    spoken_turns = [pair for q, a in marked for pair in (("q", q), ("a", a))]
    first = [("s", system)] if system else []
    parts = [
        pair
        for q, image, a in talk
        for pair in (("q", [{"type": "image", "image": image}] * bool(image) + [{"type": "text", "text": q}]), ("a", a))
    ]
    own = {"system": system} if system else {}
    history = [list(pair) for pair in marked[:-1]]
    rows = [
        llava(*first, *spoken_turns, image=images),
        llava(*spoken_turns, images=images, system_prompt=system),
        openai(*first, *spoken_turns, images=images),
        openai(*first, *parts),
        {"instruction": marked[-1][0], "output": marked[-1][1], "history": history, "images": images, **own},
        {"query": marked[-1][0], "response": marked[-1][1], "history": history, "images": images, **own},
        {**openai(*spoken_turns[:-1], images=images, **own), "chosen": marked[-1][1], "rejected": "no"},
    ]
    path = folder / "same.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    records = readers.read(path)
    assert len({(r.turns, r.system) for r in records}) == 1
    assert records[0].images == tuple(images) and records[0].answers == tuple(a for _, _, a in talk)
