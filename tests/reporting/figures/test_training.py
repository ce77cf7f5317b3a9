"""The figures of a sweep and of relearning: what is given is drawn, what is missing is left out."""

import json
import xml.etree.ElementTree as ET

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.figures import canvas, training
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.inputs.options import ReportOptions


def metric(value):
    return {"value": value, "n": 20, "k": round(20 * value), "low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}


def row(step, asr, right, **rest):
    return {"step": step, "metrics": {"asr": metric(asr), "harmless_right": metric(right)}, **rest}


SWEEP = {"rows": [row(50, 0.1, 0.9, name="beta=1", on_front=True), row(50, 0.5, 0.8, name="beta=2", on_front=False)]}
CURVE = {"label": "npo, 16 <forgotten> examples", "curve": [row(0, 0.0, 0.9), row(10, 0.7, 0.9)]}


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (lambda: training.sweep_frontier(SWEEP), "beta=2"),
        (lambda: training.relearning([CURVE, {**CURVE, "label": "rmu"}]), "npo, 16 <forgotten> examples"),
    ],
)
def test_a_figure_names_its_lines_and_stands_alone(drawn, said):
    svg = drawn()
    assert "var(--" in svg
    alone = canvas.standalone(svg)
    assert "var(--" not in alone
    assert said in "".join(ET.fromstring(alone).itertext())


def test_nothing_to_draw_is_no_figure():
    assert training.relearning([]) is None and training.sweep_frontier({"rows": []}) is None
    assert training.relearning([{"label": "x", "curve": []}]) is None
    assert training.training_curves({"a": [{"step": 1}, {"loss": 2.0}]}) is None


def test_two_sweeps_share_no_axes():
    with pytest.raises(InputError, match="more than once"):
        training.sweeps([SWEEP, SWEEP])


def test_training_shows_the_parts_of_a_loss_where_it_has_parts():
    plain = [{"step": step, "loss": 1 / (step + 1)} for step in range(3)]
    parts = [{**row, "forget_loss": 0.5, "retain_nll": 0.1} for row in plain]
    assert "on what is kept" not in training.training_curves({"sft": plain})
    drawn = training.training_curves({"sft": plain, "npo": parts})
    assert all(text in drawn for text in ("sft", "npo", "on what is kept", "on what is forgotten"))


def test_a_long_run_is_thinned_to_its_whole_length():
    axis = training.training_curves({"a": [{"step": i, "loss": 1.0} for i in range(5001)]}).figure.axes[0]
    steps = axis.lines[0].get_xdata()
    assert len(steps) <= 400 and steps[0] == 0 and steps[-1] > 4900


def test_another_file_is_named(story, tmp_path):
    (tmp_path / "curve.json").write_text(json.dumps(CURVE))
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    found = content.collect(
        story[0], ReportOptions(sweep=[tmp_path / "sweep.json"], relearning=[tmp_path / "curve.json"])
    )
    assert found.files("sweep") == [SWEEP] and found.files("relearning") == [CURVE]
    with pytest.raises(InputError, match="missing required field `curve`"):
        content.collect(story[0], ReportOptions(relearning=[tmp_path / "sweep.json"]))
