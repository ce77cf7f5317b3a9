"""The figures of bin/holds: every situation that was measured, every layer that was read, nothing else."""

import xml.etree.ElementTree as ET

import numpy as np

from vlm_mu_jax.reporting.figures import canvas, holds


def metric(value):
    return {"value": value, "n": 20, "k": round(20 * value), "low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}


def rates(asr, control=None):
    test = None if control is None else {"p": 0.5}
    return {"asr": {"rate": metric(asr), "control": control and metric(control), "test": test}}


def layers(*values):
    return {"harmful": [metric(v) for v in values], "harmless": [metric(1.0) for _ in values]}


ROWS = [
    {"name": "as_is", "title": "as is", "rates": rates(0.1)},
    {"name": "words", "title": "searched words", "rates": rates(0.9, 0.2)},
    {"name": "pgd", "title": "PGD image", "rates": {}},
]
READ = {"probe": layers(0.9, 0.9), "lens": layers(0.9, 0.4), "floor": {"harmful": metric(0.5)}}
FILE = {"name": "npo <b>", "rows": ROWS, "depth": {"conditions": {"own": READ}}}


def said(drawing):
    return "".join(ET.fromstring(canvas.standalone(drawing)).itertext())


def test_what_was_measured_is_drawn_and_named():
    text = said(holds.situations([FILE, {**FILE, "name": "rmu"}]))
    assert all(word in text for word in ("npo <b>", "rmu", "as is", "searched words", "Harmful answers"))
    assert "PGD" not in text
    (drawn,) = [line for line in holds.depth([FILE]).figure.axes[1].lines if line.get_label() == "npo <b>"]
    assert list(drawn.get_ydata()) == [0.9, 0.4]
    text = said(holds.depth([FILE]))
    assert (
        all(word in text for word in ("npo <b>", "floor", "own image: a linear probe reads it"))
        and "text only" not in text
    )


def test_layers_where_nothing_was_counted_are_gaps():
    empty = {"value": None, "n": 0}
    read = {**READ, "probe": {"harmful": [metric(0.9), empty, {}]}, "floor": {"harmful": empty}}
    axis = holds.depth([{**FILE, "depth": {"conditions": {"own": read}}}]).figure.axes[0]
    (drawn,) = [line for line in axis.lines if line.get_label() == "npo <b>"]
    assert list(drawn.get_ydata())[:1] == [0.9] and np.isnan(list(drawn.get_ydata())[1:]).all()


def test_without_rows_or_layers_there_is_nothing_to_draw():
    assert holds.situations([{"name": "npo", "rows": ROWS[2:]}]) is None
    assert holds.depth([{"name": "npo", "rows": ROWS, "depth": None}]) is None
