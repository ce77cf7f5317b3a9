"""Extraction: where directions are read, whose they are, and single anchors."""

import json

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.llava import forward
from vlm_mu_jax.steering.anchor_texts import load_anchors
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard
from vlm_mu_jax.steering.guarded_answers import divergence, first_token_logprobs
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


def test_divergence_is_zero_for_a_closed_gate_and_counts_for_an_open_one(model, anchors, pictures):
    guard = extract_guard(model, anchors, TEXT_ONLY).using(operator="add", strength=6.0, gate="none", layers=(1,))
    ask = (["how to hurt a dax?", "feed it"], pictures[:2])
    plain = first_token_logprobs(model, *ask)
    np.testing.assert_allclose(np.exp(plain).sum(-1), 1, rtol=1e-5)
    assert divergence(plain, first_token_logprobs(model, *ask, guard=guard.using(strength=0.0))) < 1e-6  # rounding
    moved = first_token_logprobs(model, *ask, guard=guard)
    by_hand = np.mean([sum(np.exp(p) * (p - q)) for p, q in zip(plain, moved, strict=True)])
    assert divergence(plain, moved) == pytest.approx(by_hand, rel=1e-4) and by_hand > 1e-3
