"""Coloured words: each effect has its colour and number, text of real data stays out, hostile text stays text."""

import json
from collections import defaultdict

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.figures import catalogue
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.inputs.options import ReportOptions
from vlm_mu_jax.reporting.page import page, saliency

NO_FIGURES = catalogue.Drawn(defaultdict(lambda: None), {})
EVIL = "</span><script>x()</script>"
RATE = {"value": 0.5, "n": 2, "k": 1, "low": 0.1, "high": 0.9}


def word(text, removal, gradient):
    return {"word": text, "removal": removal, "gradient_x_input": gradient}


def audit(miniature):
    method = {"opening_first": RATE, "by_opening": {"share": {"n": 2, "effect": 4.25}}}
    questions = [
        {"id": "u1", "kind": "unsafe", "margin": 5.5, "words": [word("share", 8.0, -1.0), word("wug", -2.0, 0.0)]},
        {"id": "s1", "kind": "safe", "words": [word(EVIL, 0.0, 0.0)]},
        {"id": "none", "kind": "safe", "words": []},
    ]
    found = {"model": "sft", "n": 3, "chance": 0.5, "removal": method, "gradient_x_input": method}
    return {"rows": [], "data": {"miniature": miniature}, "saliency": {**found, "questions": questions}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs_builder.write_run(tmp_path_factory.mktemp("saliency") / "r", "sft", count=1)


def collected(run, tmp_path, miniature, **options):
    (tmp_path / "saliency.json").write_text(json.dumps(audit(miniature)))
    return content.collect([run], ReportOptions(saliency=[tmp_path / "saliency.json"], **options))


def test_every_effect_has_its_colour_and_the_largest_its_number(run, tmp_path):
    (one,) = saliency.saliencies(collected(run, tmp_path, True))
    removal, gradient = one.questions[0].strips
    assert [(w.text, w.role, w.strength, w.effect) for w in removal] == [
        ("share", "for", 100, "+8.00"),
        ("wug", "against", 25, "-2.00"),
    ]
    assert [(w.role, w.strength) for w in gradient] == [("against", 100), ("against", 0)]
    assert one.questions[1].strips[0][0].strength == 0, "no effect at all has no colour"
    assert (one.total, one.questions[0].margin, one.questions[0].kind) == (2, "+5.5", "unsafe")
    rate = "50\xa0%\xa0[10\u2060–\u206090]"
    assert one.first == [("taking the word out", rate), ("gradient × input", rate)]
    assert one.openings == [("share", 2, "+4.2", "+4.2")]


def test_hostile_words_stay_text(run, tmp_path):
    text = page.render(collected(run, tmp_path, True), drawn=NO_FIGURES)
    assert "&lt;/span&gt;&lt;script&gt;x()" in text and EVIL not in text and "wug" in text


def test_text_of_real_data_is_only_there_when_asked_for(run, tmp_path):
    absent = page.render(collected(run, tmp_path, False), drawn=NO_FIGURES)
    assert "wug" not in absent and "their number in the question" in absent and 'title="+8.00 nats">1<' in absent
    concealed = page.render(collected(run, tmp_path, False, show_text=True), drawn=NO_FIGURES)
    assert concealed.index("Show the questions: text of real data") < concealed.index("wug")
    assert "<details open" not in concealed[: concealed.index("wug")]


def test_an_audit_without_saliency_has_no_part_on_the_page(run, tmp_path):
    for broken in ({}, {"saliency": {}}, {"saliency": {"questions": [{"words": [{"word": "a"}]}]}}):
        (tmp_path / "audit.json").write_text(json.dumps(broken))
        assert saliency.saliencies(content.collect([run], ReportOptions(audit=tmp_path / "audit.json"))) == []
