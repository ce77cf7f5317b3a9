"""A record is a conversation: its shortest case by fields, longer ones by turns."""

import dataclasses

import pytest

from vlm_mu_jax.data.records import ImagePart, Item, Record, Turn
from vlm_mu_jax.errors import InputError

IMAGE = ImagePart("a.png")
LONG = Record(
    "c",
    kind="safe",
    system="be kind",
    turns=(
        Turn("user", (IMAGE, "what is it")),
        Turn("assistant", ("a ring",)),
        Turn("user", ("and ", ImagePart("b.png"), " this")),
        Turn("assistant", ("a dax",)),
    ),
)


def test_one_question_about_one_image_is_the_shortest_conversation():
    record = Record("r", "a.png", "what is it", "a ring", "safe", "signs", "test")
    assert record.turns == LONG.turns[:2] and record.is_short and record.system is None
    assert (record.image, record.images, record.question, record.answer) == (
        "a.png",
        ("a.png",),
        "what is it",
        "a ring",
    )
    assert Record("r", None, "what", "", "safe").turns == (Turn("user", ("what",)),)


def test_a_longer_conversation_has_its_first_question_by_field_and_all_of_it_by_turn():
    assert (LONG.question, LONG.answer, LONG.image) == ("what is it", "a ring", "a.png")
    assert LONG.images == ("a.png", "b.png") and LONG.answers == ("a ring", "a dax") and not LONG.is_short
    assert LONG.turns[2].text == "and  this"


def test_fields_are_exchanged_and_the_rest_stays():
    changed = dataclasses.replace(LONG, question="share it", answer="no", kind="unsafe", image="c.png")
    assert changed.turns[0].parts == (ImagePart("c.png"), "share it") and changed.turns[2:] == LONG.turns[2:]
    assert (changed.answer, changed.kind, changed.system) == ("no", "unsafe", "be kind")
    short = Record("r", "a.png", "what", "a ring", "safe")
    assert dataclasses.replace(short, answer="").turns == short.turns[:1]
    assert dataclasses.replace(short, image=None).turns[0].parts == ("what",)
    assert dataclasses.replace(short, id="s") == Record("s", "a.png", "what", "a ring", "safe")
    item = Item("i", None, "what", "a ring", "safe", details={"group": "g"})
    assert dataclasses.replace(item, category="x").details == {"group": "g"} and item.group == "g"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("old",), ("new",)),
        ((IMAGE, "old"), (IMAGE, "new")),
        (("old", IMAGE), ("new", IMAGE)),
        (("old ", IMAGE, " old"), (IMAGE, "new")),
        ((IMAGE,), (IMAGE, "new")),
    ],
)
def test_other_words_keep_the_images(parts, expected):
    assert Turn("user", parts).with_text("new").parts == expected


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"turns": LONG.turns[1:]}, "turn 1 must be the user's"),
        ({"turns": LONG.turns[:1] * 2}, "turn 2 must be the assistant's"),
        ({"turns": (*LONG.turns[:2], Turn("user", ("",)))}, "turn 3 is empty"),
        ({"turns": ()}, "question is empty"),
        ({"turns": LONG.turns, "system": 3}, "system must be text"),
        ({"turns": LONG.turns, "answer": ""}, "cannot be empty"),
        ({"turns": LONG.turns, "rejected": None}, "rejected must be text"),
    ],
)
def test_a_conversation_that_is_none(fields, what):
    with pytest.raises(InputError, match=what):
        Record("x", **fields)


@pytest.mark.parametrize(
    ("role", "parts", "what"),
    [("tool", ("x",), "role"), ("assistant", (IMAGE,), "only questions"), ("user", (3,), "texts and images")],
)
def test_a_turn_that_is_none(role, parts, what):
    with pytest.raises(InputError, match=what):
        Turn(role, parts)
