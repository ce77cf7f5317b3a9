"""The figures of defences and of diagnostics: what is given is drawn, what is missing is left out."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vlm_mu_jax.reporting.figures import canvas, defences


def metric(value):
    return {"value": value, "n": 20, "k": round(20 * value), "low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}


def cells(value):
    cell = {"asr": metric(value), "rr_harmless": metric(0.0)}
    return {"text_only": cell, "blank_image": cell}


DEFENCES = {
    "rows": [
        {"name": "vanilla", "metrics": {"settings": {"direct": cells(0.5), "template": cells(0.9)}}},
        {"name": "guard <b>", "metrics": {"settings": {"direct": cells(0.1)}}},
    ]
}
GUARD = {
    "auroc_refit": {"text": [0.9, 1.0], "blank": [0.8, 0.9]},
    "cosine": {"blank": [0.7, 0.8], "two_halves": [0.9, 0.9]},
    "stress": {"white": {"auroc": [0.8, 0.8]}, "noise": {"auroc": [0.6, 0.5]}},
    "answers": {
        "conditions": {
            "text": {"harmful": {"answered": metric(0.1), "refused": metric(0.9)}, "perplexity": metric(0.5)},
            "noise": {"harmful": {"answered": metric(0.8)}, "perplexity": {"value": None, "n": 0}},
        }
    },
}


@pytest.mark.parametrize(
    ("draw", "file", "said"),
    [
        ("defences", DEFENCES, ("vanilla", "guard <b>", "ASR, direct", "ASR, template", "blank image")),
        ("directions", GUARD, ("white", "noise", "text only, half against half", "Cosine with the text's direction")),
        ("answers", GUARD, ("text only", "noise blank image", "harmful answered", "Perplexity")),
    ],
)
def test_a_figure_names_what_it_shows_and_stands_alone(draw, file, said):
    alone = canvas.standalone(getattr(defences, draw)([file]))
    assert "var(--" not in alone
    text = "".join(ET.fromstring(alone).itertext())
    assert all(words in text for words in said), text


def test_what_was_not_measured_is_no_figure():
    assert defences.defences([{"rows": []}]) is None
    assert defences.directions([{"auroc": {"text": [1.0]}}]) is None
    assert defences.directions([{"cosine": {"own": []}, "stress": {"white": {"auroc": [None]}}}]) is None
    (axis,) = defences.directions([{"cosine": {"own": [0.5, None], "blank": []}}]).figure.axes
    (drawn,) = [line for line in axis.lines if not line.get_label().startswith("_")]
    assert drawn.get_ydata()[0] == 0.5 and np.isnan(drawn.get_ydata()[1])
    assert defences.answers([{"auroc": {"text": [1.0]}}]) is None
