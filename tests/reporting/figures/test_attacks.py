"""The figure of further attacks: every set of questions with its control, what is missing is left out."""

import xml.etree.ElementTree as ET

from vlm_mu_jax.reporting.figures import attacks, canvas


def metric(value):
    return {"value": value, "n": 20, "k": round(20 * value), "low": max(value - 0.1, 0), "high": min(value + 0.1, 1)}


def row(goal, questions, attack):
    return {"goal": goal, "questions": questions, "original": metric(0.1), "control": metric(0.2), "attack": attack}


FILES = [
    {
        "method": "gcg",
        "model": "sft",
        "rows": [row("jailbreak", "searched", metric(0.9)), row("over_refuse", "", None)],
    },
    {"method": "pgd", "model": "<b>", "guarded": True, "rows": [row("jailbreak", "", {"value": None, "n": 0})]},
]


def test_every_attack_is_drawn_with_its_control():
    svg = attacks.methods(FILES)
    ET.fromstring(canvas.standalone(svg))
    for said in ("sft, gcg, searched", "pgd, guarded", "control", "unchanged", "Harmless questions refused"):
        assert said in svg
    assert "<b>" not in svg


def test_nothing_to_draw():
    assert attacks.methods([{"method": "gcg", "rows": []}]) is None
