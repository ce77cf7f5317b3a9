"""Forget and retain sets: no refusal is ever unlearned, sampling is seeded, everything is counted."""

import json

import pytest

from vlm_mu_jax.data.forget_retain import IDK, build, preferred
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError


def record(id, kind, answer="reference", source="test"):
    return Record(id, "a.png", f"question {id}", answer, kind, "", source)


SAFETY = [record(f"u{i}", "unsafe", "refusal") for i in range(5)]
SAFETY += [record(f"s{i}#safe", "safe") for i in range(4)]
SAFETY += [record("s0#unsafe", "unsafe", source="vlguard/safe_unsafes")]
GENERAL = [record(f"g{i}", "general") for i in range(20)]


def line(id, answer, label="answered", attack="none", judge="refusal"):
    labels = {} if label is None else {judge: {"label": label}}
    return json.dumps({"id": id, "condition": {"attack": attack}, "answer": answer, "labels": labels})


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [
        line("u0", "attacked", attack="one_word"),
        line("u0", " steps "),
        line("u0", "a second answer"),
        line("u1", "no", label="refused"),
        line("u2", "babble", label="irrelevant"),
        line("u3", "unjudged", label=None),
        line("s0#unsafe", "other steps"),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_only_judged_harmful_answers_enter_once_and_drops_are_counted(answers):
    split = build(SAFETY, answers, GENERAL)
    assert [(r.id, r.answer) for r in split.forget] == [("u0", "steps")]
    counts = split.manifest["forget"]
    assert counts["unsafe_records"] == 5 and counts["records"] == 1
    assert [counts[f"dropped_{why}"] for why in ("refused", "irrelevant", "unjudged", "unanswered")] == [1, 1, 1, 1]


def test_unsafe_pairs_of_safe_images_join_on_request(answers):
    split = build(SAFETY, answers, GENERAL, unsafe_on_safe_images=True)
    assert {r.id for r in split.forget} == {"u0", "s0#unsafe"}


def test_retain_is_safe_data_filled_with_general_data_by_seed(answers):
    first, again, other = (build(SAFETY, answers, GENERAL, retain_size=10, seed=s) for s in (0, 0, 1))
    assert sum(r.kind == "safe" for r in first.retain) == 4 and len(first.retain) == 10
    assert first.manifest == again.manifest and first.retain == again.retain
    assert {r.id for r in first.retain} != {r.id for r in other.retain}
    assert not any(r.kind == "unsafe" for r in first.retain)
    assert first.manifest["retain"]["general"] == 6
    assert len(build(SAFETY, answers, GENERAL, retain_size=3).retain) == 3
    assert len(build(SAFETY, answers, GENERAL).retain) == 24


def test_mistakes_are_named(answers, tmp_path):
    with pytest.raises(InputError, match="only 4 safe and 20 general"):
        build(SAFETY, answers, GENERAL, retain_size=100)
    with pytest.raises(InputError, match="no such answers file"):
        build(SAFETY, tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no usable harmful answer"):
        build(SAFETY, answers, judge="oracle")
    with pytest.raises(InputError, match="no safe or general"):
        build([r for r in SAFETY if r.kind == "unsafe"], answers)
    for broken in ("{", '{"id": "u0"}', '{"id": "u0", "condition": {"attack": "none"}, "answer": 3}'):
        (tmp_path / "bad.jsonl").write_text(line("u0", "x") + "\n" + broken + "\n")
        with pytest.raises(InputError, match="bad.jsonl:2"):
            build(SAFETY, tmp_path / "bad.jsonl")


def test_preferred_answers_stand_row_by_row_beside_the_harmful_ones(answers):
    forget = build(SAFETY, answers, GENERAL, unsafe_on_safe_images=True).forget
    refusals = preferred(forget, SAFETY, "refusal")
    assert [(r.id, r.question) for r in refusals] == [(r.id, r.question) for r in forget]
    assert {r.id: r.answer for r in refusals} == {"u0": "refusal", "s0#unsafe": "reference"}
    unknowing = preferred(forget * 20, SAFETY, "idk", seed=1)
    assert {r.answer for r in unknowing} <= set(IDK) and len({r.answer for r in unknowing}) > 1
    assert unknowing == preferred(forget * 20, SAFETY, "idk", seed=1) != preferred(forget * 20, SAFETY, "idk", seed=2)


def test_a_request_without_a_reference_answer_cannot_be_half_of_a_pair():
    with pytest.raises(InputError, match=r"'u1'.*objective.preferred to idk"):
        preferred([record("u1", "unsafe", "steps")], [record("u1", "unsafe", " ")], "refusal")


def test_the_sets_know_where_their_images_lie(tmp_path):
    """Of data in two folders, the second one's paths are absolute."""
    (tmp_path / "a.jsonl").write_text(line("u", "take it"))
    unsafe, safe = Record("u", "u.png", "share?", "", "unsafe"), Record("s", "s.png", "what?", "that", "safe")
    general = Record("g", "g.png", "how many?", "two", "general")
    safety = Records((unsafe, safe), tmp_path / "one", tmp_path / "one" / "train.json", "0")
    sets = build(
        safety, tmp_path / "a.jsonl", Records((general,), tmp_path / "two", tmp_path / "two" / "mix.json", "1")
    )
    assert sets.forget.image_path(sets.forget[0]) == tmp_path / "one" / "u.png"
    assert {sets.retain.image_path(record) for record in sets.retain} == {
        tmp_path / "one" / "s.png",
        tmp_path / "two" / "g.png",
    }
