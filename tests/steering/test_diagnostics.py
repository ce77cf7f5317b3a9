"""Diagnostics: the format the report reads, and numbers that planted states must give."""

from pathlib import Path

import numpy as np
import pytest

from vlm_mu_jax.data.images import BLANK_KINDS
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import diagnostics
from vlm_mu_jax.steering.directions import difference_of_means, paired_svd


def requests(harmful: int, harmless: int) -> Records:
    kinds = ["unsafe"] * harmful + ["safe"] * harmless
    items = tuple(Record(str(i), None, f"question {'abcdefghij'[i % 10]}", "", kind) for i, kind in enumerate(kinds))
    return Records(items, Path(), Path("requests.json"), "")


def test_separation_that_an_image_blurs_shows_in_auroc_and_pca(planted):
    harmful, harmless, _ = planted(offset=0.0)
    directions = paired_svd(harmful[:, :30], harmless[:, :30])
    text = np.concatenate([harmful[:, 30:], harmless[:, 30:]], axis=1)
    blurred = np.concatenate([harmless[:, :30], harmless[:, 30:]], axis=1) + 7.0  # an image moves all and hides harm
    found = diagnostics.diagnose({"text": text, "blank": blurred}, requests(30, 30), directions, layer=1)
    assert min(found["auroc"]["text"]) > 0.95
    for (low, high), value in zip(found["auroc_interval"]["blank"], found["auroc"]["blank"], strict=True):
        assert low <= value <= high and low < 0.5 < high
    assert min(found["within_cosine"]["text"]) > 0.9
    assert found["n"] == {"harmful": 30, "harmless": 30}
    points = found["pca"]["points"]
    assert len(points) == 120 and {(p["kind"], p["condition"]) for p in points} == {
        ("harmful", "text"),
        ("harmless", "text"),
        ("harmful", "blank"),
        ("harmless", "blank"),
    }
    centre = {c: np.mean([[p["x"], p["y"]] for p in points if p["condition"] == c], axis=0) for c in ("text", "blank")}
    assert np.linalg.norm(centre["text"] - centre["blank"]) > 20  # the shift of 7 in each of 24 dimensions is 34


def test_joint_pca_is_the_best_plane_and_its_signs_are_fixed():
    states = np.random.default_rng(0).normal(size=(50, 8)) * np.array([9, 5, 1, 1, 1, 1, 1, 1])
    points, explained = diagnostics.joint_pca(states)
    again, _ = diagnostics.joint_pca(states[::-1])
    np.testing.assert_allclose(points, again[::-1], atol=1e-9)
    np.testing.assert_allclose(points.var(0) / states.var(0).sum(), explained, rtol=1e-9)
    assert explained.sum() > 0.85


def test_conditions_follow_what_the_model_and_the_data_have(model, make_model):
    data = requests(2, 2)
    blank = model.processor.blank_pixels()
    found = diagnostics.condition_states(model, data, blank)
    assert {name: states.shape for name, states in found.items()} == {"text": (4, 4, 32), "blank": (4, 4, 32)}
    assert np.abs(found["text"] - found["blank"]).max() > 1e-3
    assert set(diagnostics.condition_states(make_model(vision=False), data, None)) == {"text"}


def test_a_direction_that_an_image_turns_is_found_again_inside_the_condition():
    rng = np.random.default_rng(0)
    along, across = np.eye(24)[:2]
    noise = rng.normal(size=(2, 1, 120, 24))
    kind_N1 = np.repeat([1.0, 0.0], 60)[:, None]
    text, turned = noise[0] + 4 * kind_N1 * along, noise[1] + 4 * kind_N1 * across
    directions = paired_svd(text[:, :60], text[:, 60:])
    found = diagnostics.diagnose({"text": text, "blank": turned}, requests(60, 60), directions, layer=0)
    assert found["auroc"]["text"][0] > 0.95 and found["auroc_refit"]["blank"][0] > 0.95
    low, high = found["auroc_interval"]["blank"][0]
    assert low < 0.7 and abs(found["cosine"]["blank"][0]) < 0.4 < found["cosine"]["two_halves"][0]


def test_a_refitted_direction_has_not_seen_the_twins_of_a_request():
    """Five variants of one request stand together; their common state says nothing about harm."""
    rng = np.random.default_rng(1)
    states = np.repeat(rng.normal(size=(1, 40, 64)), 5, axis=1) + 0.05 * rng.normal(size=(1, 200, 64))
    directions = difference_of_means(states[:, :100], states[:, 100:])
    found = diagnostics.diagnose({"text": states}, requests(100, 100), directions, layer=0)
    assert found["auroc"]["text"][0] > 0.9, "the direction of these very requests tells them apart by heart"
    assert 0.2 < found["auroc_refit"]["text"][0] < 0.8


def test_stress_counts_the_shift_in_gaps_of_the_text(planted):
    harmful, harmless, _ = planted(offset=0.0)
    text = np.concatenate([harmful, harmless], axis=1)
    directions = paired_svd(harmful, harmless)
    shift = -2.0 * directions.gap_L()[:, None, None] * directions.basis_LMD[:, :1]
    found = diagnostics.stress({"white": text + shift, "noise": text}, text, requests(60, 60), directions)
    for kind in ("harmful", "harmless"):
        np.testing.assert_allclose(found["white"]["shift"][kind], [-2.0] * 3, atol=1e-9)
        np.testing.assert_allclose(found["noise"]["shift"][kind], [0.0] * 3, atol=1e-9)
    assert found["white"]["auroc"] == pytest.approx(found["noise"]["auroc"], abs=1e-9)
    assert max(found["white"]["gate"]["tpr"]) < 0.05 < 0.9 < min(found["noise"]["gate"]["tpr"])


def test_blank_images_of_every_kind_give_states_of_their_own(model, make_model):
    found = diagnostics.blank_states(model, requests(1, 1))
    assert set(found) == set(BLANK_KINDS)
    kinds = list(found.values())
    assert all(np.abs(a - b).max() > 1e-4 for k, a in enumerate(kinds) for b in kinds[:k])
    assert diagnostics.blank_states(make_model(vision=False), requests(1, 1)) == {}


def test_another_language_model_is_compared_in_equal_shapes_only(planted):
    harmful, harmless, _ = planted()
    text = np.concatenate([harmful, harmless], axis=1)
    kinds = diagnostics.kinds_of(requests(60, 60))
    found = diagnostics.cosines({"text": text}, kinds, llm_LND=-text)
    np.testing.assert_allclose(found["llm"], [-1.0] * 3, atol=1e-9)
    with pytest.raises(InputError, match="2 layers of width 24, this one 3 of width 24"):
        diagnostics.cosines({"text": text}, kinds, llm_LND=text[:2])


def test_one_kind_or_no_such_layer_is_an_input_error(planted):
    harmful, harmless, _ = planted()
    directions = paired_svd(harmful, harmless)
    with pytest.raises(InputError, match="unsafe and safe"):
        diagnostics.diagnose({"text": harmful}, requests(60, 0), directions, layer=0)
    with pytest.raises(InputError, match="layer 3"):
        diagnostics.diagnose({"text": harmful}, requests(30, 30), directions, layer=3)
