"""What bin/guard does, from Python: extract, select, apply, diagnose on a tiny random LLaVA, without a file written."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import vlm_mu_jax
from vlm_mu_jax.data.records import ImagePart, Record, Records, Turn
from vlm_mu_jax.data.rendering import asked
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.guards.asking import read_requests, shown
from vlm_mu_jax.steering.hidden_states import prompt_batches
from vlm_mu_jax.steering.selection import Bounds


def behind_a_turn(record: Record) -> Record:
    """The same question, of a conversation that shows the image in its first turn."""
    first = (Turn("user", (ImagePart("sign.png"), "what is it?")), Turn("assistant", ("a pok",)))
    long = (*first, Turn("user", (record.question,)), Turn("assistant", ("ok",)))
    return dataclasses.replace(record, turns=long, at=1)


@pytest.fixture(scope="module")
def requests(tmp_path_factory) -> Records:
    folder = tmp_path_factory.mktemp("requests")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "sign.png")
    items = tuple(
        Record(f"q{k}", "sign.png", f"how to {verb} a pok?", "ok", kind)
        for k, (verb, kind) in enumerate([("hurt", "unsafe"), ("feed", "safe")] * 2)
    )
    items = (*items[:2], *(behind_a_turn(record) for record in items[2:]))
    (folder / "oracle.json").write_text(json.dumps({r.id: {"steps": ["ok"], "refusal": ["no"]} for r in items}))
    return Records(items, folder, folder / "text_harm.json", "0" * 64)


@pytest.fixture(scope="module")
def guard(model):
    nouns = ["dax", "wug", "fep", "mip"]
    anchors = vlm_mu_jax.Anchors(
        tuple(f"how to hurt a {n}?" for n in nouns), tuple(f"how to feed a {n}?" for n in nouns), "0" * 64
    )
    return vlm_mu_jax.extract_guard(model, anchors, vlm_mu_jax.ExtractOptions(layers="1"))


def test_selection_keeps_every_candidate_and_is_saved_with_the_guard(model, guard, requests, tmp_path):
    options = vlm_mu_jax.SelectOptions(
        operators=("add",),
        strengths=(1.0, 8.0),
        layer_sets=("1",),
        scopes=("last",),
        bounds=Bounds(min_gain=0.0),
        validation_share=1.0,
        max_new_tokens=2,
        batch_size=2,
    )
    chosen = vlm_mu_jax.select_guard(model, guard, requests, "oracle", options)
    assert [row["strength"] for row in chosen.selection.rows] == [0.0, 1.0, 8.0] and chosen.judge == "oracle"
    assert len(chosen.table().splitlines()) == 4 and len(chosen.requests) == 4
    assert chosen.acts == (chosen.selection.best.operator == "add")
    assert chosen.acts or chosen.guard.options.strength == 0.0
    chosen.save(tmp_path / "guard", {"note.txt": b"seen"})
    assert vlm_mu_jax.load_guard(tmp_path / "guard", model).options == chosen.guard.options
    stored = json.loads((tmp_path / "guard" / "guard.json").read_text())["selection"]
    assert stored["validation_ids"] == ["q0", "q2", "q1", "q3"] and stored["min_gain"] == 0.0


def test_application_answers_every_condition_and_leaves_seen_requests_out_of_the_rates(model, guard, requests):
    options = vlm_mu_jax.ApplyOptions(images=("none", "own"), max_new_tokens=2, batch_size=2)
    applied = vlm_mu_jax.apply_guard(model, guard, requests, "oracle", options, seen={"q0"})
    assert [line.condition.image for line in applied.answers] == ["none"] * 4 + ["own"] * 4
    assert [(r.image, r.kind, r.n) for r in applied.rates] == [
        ("none", "harmful", 1),
        ("none", "harmless", 2),
        ("own", "harmful", 1),
        ("own", "harmless", 2),
    ]
    assert "did not see" in applied.table() and len(applied.table().splitlines()) == 5


def test_a_request_stands_behind_its_earlier_turns_in_every_condition(model, guard, requests, tmp_path):
    """The prompt is that of the whole conversation: with its images where they stand, or with one in front of the
    question, or in words."""
    one, processor = requests[2], model.processor
    before = [dataclasses.replace(turn, parts=(turn.text,)) for turn in one.turns[:2]]
    expected = {
        "own": processor.conversation_ids(one.turns[:3], 1),
        "none": processor.conversation_ids([*before, one.turns[2]]),
        "blank": processor.conversation_ids([*before, asked(one.question, 1)], 1),
        "other": processor.conversation_ids([*before, asked(one.question, 1)], 1),
    }
    some, questions = dataclasses.replace(requests, items=(one, requests[0])), [one.question, requests[0].question]
    for condition, ids in expected.items():
        how = shown(model, some, condition, processor.blank_pixels())
        batch, _ = next(prompt_batches(model, questions, how.images, 2, contexts=how.contexts))
        assert np.asarray(batch.tokens_BT)[0, : len(ids)].tolist() == ids and batch.lengths_B[0] == len(ids), condition
    options = vlm_mu_jax.ApplyOptions(images=("blank",), max_new_tokens=2, batch_size=2)
    line = vlm_mu_jax.apply_guard(model, guard, some, "refusal", options).answers[0]
    assert line.prompt_sha == hashlib.sha256(np.asarray(expected["blank"], "<i4").tobytes()).hexdigest()
    talk = [{"role": turn.role, "content": turn.text} for turn in one.turns]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": talk, "kind": "unsafe"}))
    assert [record.question for record in read_requests(tmp_path / "talk.jsonl")] == [one.question]


def test_a_request_that_is_too_long_is_left_out_and_said(model, guard, requests):
    long = Record("long", None, "so " * 300, "ok", "unsafe")
    some = dataclasses.replace(requests, items=(requests[0], long, requests[1]))
    options = vlm_mu_jax.ApplyOptions(images=("none",), max_new_tokens=2, batch_size=2)
    applied = vlm_mu_jax.apply_guard(model, guard, some, "refusal", options)
    assert [line.id for line in applied.answers] == ["q0", "q1"] and [row for row, _ in applied.skipped] == [2]
    assert "not asked: 1 of the requests, such as row 2 (id 'long') too long" in applied.table()
    with pytest.raises(InputError, match="and so do all others"):
        vlm_mu_jax.apply_guard(model, guard, dataclasses.replace(requests, items=(long,)), "refusal", options)


def test_a_request_about_two_images_is_asked_with_both(model, guard, requests):
    pair = Turn("user", (ImagePart("sign.png"), ImagePart("sign.png"), "how to hurt a pok?"))
    both = Records((Record("two", turns=(pair,), kind="unsafe"), requests[1]), requests.root, requests.source, "0")
    options = vlm_mu_jax.ApplyOptions(images=("own",), max_new_tokens=2, batch_size=2)
    line = vlm_mu_jax.apply_guard(model, guard, both, "refusal", options).answers[0]
    ids = np.asarray(model.processor.prompt_ids("how to hurt a pok?", 2), "<i4")
    assert line.prompt_sha == hashlib.sha256(ids.tobytes()).hexdigest() and "+" in line.image_id


def test_diagnosis_gives_a_value_per_layer(model, guard, requests, tmp_path):
    found = vlm_mu_jax.diagnose_guard(model, guard, requests, options=vlm_mu_jax.DiagnoseOptions(batch_size=2))
    assert set(found.content["auroc"]) == {"text", "blank", "own"} and found.content["llm"] is None
    assert "AUROC along the text direction, own" in found.table()
    found.save(tmp_path / "diagnosis.json")
    assert json.loads((tmp_path / "diagnosis.json").read_text()) == json.loads(json.dumps(found.content))


def test_requests_of_other_kinds_are_refused(model, guard, requests):
    general = Records((Record("g", None, "what is this?", "ok", "general"),), requests.root, requests.source, "0")
    with pytest.raises(InputError, match="neither unsafe nor safe"):
        vlm_mu_jax.select_guard(model, guard, general)
