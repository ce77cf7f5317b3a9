"""Diagnostics: the format the report reads, and numbers that planted states must give."""

from pathlib import Path

import numpy as np
import pytest

from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import diagnostics
from vlm_mu_jax.steering.directions import paired_svd


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
        ("harmful", "text"), ("harmless", "text"), ("harmful", "blank"), ("harmless", "blank")}  # fmt: skip
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


def test_one_kind_or_no_such_layer_is_an_input_error(planted):
    harmful, harmless, _ = planted()
    directions = paired_svd(harmful, harmless)
    with pytest.raises(InputError, match="unsafe and safe"):
        diagnostics.diagnose({"text": harmful}, requests(60, 0), directions, layer=0)
    with pytest.raises(InputError, match="layer 3"):
        diagnostics.diagnose({"text": harmful}, requests(30, 30), directions, layer=3)
