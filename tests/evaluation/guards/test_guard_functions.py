"""What bin/guard does, from Python: extract, select, apply, diagnose on a tiny random LLaVA, without a file written."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import vlm_mu_jax
from vlm_mu_jax.data import questions
from vlm_mu_jax.data.readers.rows import BadRows
from vlm_mu_jax.data.records import ImagePart, Record, Records, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.selection import Bounds


@pytest.fixture(scope="module")
def requests(tmp_path_factory) -> Records:
    folder = tmp_path_factory.mktemp("requests")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "sign.png")
    items = tuple(
        Record(f"q{k}", "sign.png", f"how to {verb} a pok?", "ok", kind)
        for k, (verb, kind) in enumerate([("hurt", "unsafe"), ("feed", "safe")] * 2)
    )
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


def test_a_request_about_two_images_is_asked_with_both_and_one_behind_earlier_turns_is_refused(model, guard, requests):
    pair = Turn("user", (ImagePart("sign.png"), ImagePart("sign.png"), "how to hurt a pok?"))
    both = Records((Record("two", turns=(pair,), kind="unsafe"), requests[1]), requests.root, requests.source, "0")
    options = vlm_mu_jax.ApplyOptions(images=("own",), max_new_tokens=2, batch_size=2)
    line = vlm_mu_jax.apply_guard(model, guard, both, "refusal", options).answers[0]
    ids = np.asarray(model.processor.prompt_ids("how to hurt a pok?", 2), "<i4")
    assert line.prompt_sha == hashlib.sha256(ids.tobytes()).hexdigest() and "+" in line.image_id
    talk = Record("long", turns=(pair, Turn("assistant", ("no",)), Turn("user", ("so?",))), kind="unsafe")
    with pytest.raises(BadRows, match="'long'. is more than one question"):
        questions.lone(Records((talk,), requests.root, requests.source, "0"))


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
