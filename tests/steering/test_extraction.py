"""Extraction: where directions are read, whose they are, and single anchors."""

import dataclasses
import json

import numpy as np
import pytest

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.steering.anchor_texts import load_anchors
from vlm_mu_jax.steering.extraction import ExtractOptions, everyday_questions, extract_guard
from vlm_mu_jax.steering.guard_options import GuardOptions
from vlm_mu_jax.steering.guarded_answers import Asked, divergence, first_token_logprobs
from vlm_mu_jax.steering.hidden_states import last_token_states
from vlm_mu_jax.storage.identity import weights_hash

TEXT_ONLY = ExtractOptions(blank=None)  # thresholds for prompts with an image are not needed


def test_a_position_is_read_as_the_end_of_a_shorter_prompt(model, anchors):
    """Against the states of all tokens: position -3 of the whole prompt."""
    question = anchors.harmful[0]
    ids = model.processor.prompt_ids(question, images=0)
    all_LTD = np.asarray(forward(model.params, model.processor.pad([ids]), model.config, tap="all").taps)[:, 0]
    np.testing.assert_allclose(last_token_states(model, [question], at=-3)[:, 0], all_LTD[:, len(ids) - 3], atol=1e-4)
    with pytest.raises(InputError, match="outside a prompt"):
        last_token_states(model, [question], at=-500)


def test_directions_of_another_language_model_with_thresholds_of_the_guarded_one(model, make_model, anchors):
    llm = make_model(seed=1, vision=False)
    found, own = (
        extract_guard(model, anchors, ExtractOptions(llm=llm, blank=None)),
        extract_guard(model, anchors, TEXT_ONLY),
    )
    np.testing.assert_allclose(found.directions.basis_LMD, extract_guard(llm, anchors).directions.basis_LMD, atol=1e-5)
    states_LND = last_token_states(model, [*anchors.harmful])
    wanted_LN = np.einsum("lnd,ld->ln", states_LND, found.gate_LD)
    np.testing.assert_allclose(found.scores.harmful_LN, wanted_LN, atol=1e-4)
    assert found.origin["weights_sha256"] == own.origin["weights_sha256"] == weights_hash(model.params)
    assert found.origin["direction_weights_sha256"] == weights_hash(llm.params)
    with pytest.raises(InputError, match="width"):
        extract_guard(model, anchors, ExtractOptions(llm=make_model(D=16, vision=False)))


def test_an_image_shift_is_steered_and_the_classes_are_gated(model, anchors):
    shift = extract_guard(model, anchors, ExtractOptions(estimator="image_shift"))
    means = extract_guard(model, anchors, ExtractOptions(estimator="means", blank=None))
    np.testing.assert_allclose(shift.gate_LD, means.gate_LD, atol=1e-6)
    assert (np.abs(np.einsum("ld,ld->l", shift.gate_LD, shift.directions.basis_LMD[:, 0])) < 0.99).any()
    np.testing.assert_array_equal(shift.using(layers=(1,)).as_steer().gate_LD, shift.gate_LD.astype(np.float32))


def test_benign_texts_move_the_gate_and_nothing_else(model, anchors):
    benign = ["what is this?", "name the colour", "who drew the sign?", "count them", "what time is it?"]
    plain, guarded = (
        extract_guard(model, anchors, TEXT_ONLY),
        extract_guard(model, anchors, ExtractOptions(benign=benign, blank=None)),
    )
    np.testing.assert_allclose(guarded.directions.basis_LMD, plain.directions.basis_LMD, atol=1e-6)
    assert guarded.scores.harmless_LN.shape[1] == len(anchors.harmless) + len(benign)
    threshold_L1 = guarded.threshold_L()[:, None]
    states_LND = last_token_states(model, benign)
    open_now = (np.einsum("lnd,ld->ln", states_LND, guarded.gate_LD) > threshold_L1).mean()
    open_before = (np.einsum("lnd,ld->ln", states_LND, plain.gate_LD) > plain.threshold_L()[:, None]).mean()
    assert open_now <= open_before and open_now < 0.2
    assert (guarded.scores.harmful_LN > threshold_L1).mean() > 0.8
    assert guarded.origin["benign"]["texts"] == 5


def test_single_anchors_of_any_number(model, tmp_path):
    rows = [{"text": f"how to hurt a {noun}?", "harmful": True} for noun in ("dax", "wug", "fep")]
    rows += [{"text": f"feed a {noun}", "harmful": False} for noun in ("dax", "wug")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    anchors = load_anchors(tmp_path / "a.json")
    assert (len(anchors.harmful), len(anchors.harmless), anchors.paired) == (3, 2, False)
    origin = extract_guard(model, anchors, ExtractOptions(estimator="means", blank=None)).origin
    assert origin["anchors"] == {"harmful": 3, "harmless": 2, "paired": False}
    with pytest.raises(InputError, match="needs pairs"):
        extract_guard(model, anchors, TEXT_ONLY)


def test_requests_are_anchors_behind_their_earlier_turns(model, tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    nouns = ("dax", "wug", "fep")
    rows = [{"messages": [*talk, {"role": "user", "content": f"hurt a {n}"}], "kind": "unsafe"} for n in nouns]
    rows += [{"question": f"feed a {noun}"} for noun in nouns[:2]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    anchors = load_anchors(tmp_path / "a.jsonl")
    assert anchors.harmful == ("hurt a dax", "hurt a wug", "hurt a fep") and len(anchors.harmless) == 2
    assert [context is None for context in anchors.contexts] == [False] * 3 + [True] * 2 and not anchors.paired
    means = extract_guard(model, anchors, ExtractOptions(estimator="means")).scores
    alone = dataclasses.replace(anchors, contexts=())
    without = extract_guard(model, alone, ExtractOptions(estimator="means")).scores
    assert (means.harmful_LN != without.harmful_LN).all()


@pytest.mark.parametrize(
    "rows, said",
    [
        ([{"text": "a", "harmful": True}, {"text": "b", "harmful": False}], "at least 2"),
        ([{"text": "a", "harmful": "yes"}], "row 1.*true or false"),
        ([{"text": "a", "harmful": True}, {"harmful": "a", "harmless": "b"}], "row 2.*not both"),
    ],
)
def test_bad_single_anchors_are_input_errors(tmp_path, rows, said):
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=said):
        load_anchors(tmp_path / "a.json")


def test_options_resolve_to_the_methods_then_what_is_given_then_the_defaults():
    estimator, use = ExtractOptions().resolve(6)
    assert (estimator, use) == ("svd", GuardOptions(layers=(2, 3)))
    estimator, use = ExtractOptions(method="shiftdc", layers="4-5", using={"scope": "all"}).resolve(6)
    assert (estimator, use.operator, use.component, use.scope, use.layers) == (
        "means",
        "transplant",
        "text",
        "all",
        (4, 5),
    )
    assert ExtractOptions(method="shiftdc", estimator="svd").resolve(6)[0] == "svd"
    assert ExtractOptions(using={"operator": "transplant"}).resolve(6)[1].strength == 1.0
    assert ExtractOptions(using={"operator": "reflect"}).resolve(6)[1].strength == -2.0
    voted = {"operator": "transplant", "decide": "example", "gate_source": "self"}
    assert ExtractOptions(using=voted).resolve(6)[1].component == "self"
    assert ExtractOptions(layers=(3, 1), gate_layers="last", location="input", using={"decide": "example"}).resolve(6)[
        1
    ].layers == (0, 2)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"using": {"operator": "reflect", "strength": 1.0}}, "fixed strength"),
        ({"using": {"strenght": 1.0}}, "strenght"),
        ({"using": {"layers": (1,)}}, "no such option"),
        ({"layers": "0", "location": "input"}, "start at layer 1"),
        ({"layers": "9"}, "outside this model"),
        ({"method": "vlm_guard_2"}, "use one of"),
        ({"using": {"gate_source": "text"}}, "decide=example"),
    ],
)
def test_options_that_do_not_fit_are_input_errors(options, said):
    with pytest.raises(InputError, match=said):
        ExtractOptions(**options).resolve(6)


def test_everyday_questions_are_drawn_alike_and_never_unsafe(tmp_path):
    items = tuple(Record(str(k), None, f"what {k}?", "", "unsafe" if k % 5 == 0 else "general") for k in range(50))
    records = Records(items, tmp_path, tmp_path / "d.json", "0")
    drawn = everyday_questions(records, 10)
    assert drawn == everyday_questions(records, 10) and len(set(drawn)) == 10
    assert not set(drawn) & {f"what {k}?" for k in range(0, 50, 5)} and len(everyday_questions(records)) == 40
    with pytest.raises(InputError, match="no safe or general question"):
        everyday_questions(dataclasses.replace(records, items=items[:1]))


def test_divergence_is_zero_for_a_closed_gate_and_counts_for_an_open_one(model, anchors, pictures):
    guard = extract_guard(model, anchors, TEXT_ONLY).using(operator="add", strength=6.0, gate="none", layers=(1,))
    asked = Asked(["how to hurt a dax?", "feed it"], pictures[:2])
    plain = first_token_logprobs(model, asked)
    np.testing.assert_allclose(np.exp(plain).sum(-1), 1, rtol=1e-5)
    assert divergence(plain, first_token_logprobs(model, asked, guard=guard.using(strength=0.0))) < 1e-6  # rounding
    moved = first_token_logprobs(model, asked, guard=guard)
    by_hand = np.mean([sum(np.exp(p) * (p - q)) for p, q in zip(plain, moved, strict=True)])
    assert divergence(plain, moved) == pytest.approx(by_hand, rel=1e-4) and by_hand > 1e-3
