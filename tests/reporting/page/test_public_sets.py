"""Public sets: the number that stands for a set by its own rule comes first, nothing that was measured is lost."""

from collections import defaultdict

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.figures import catalogue
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.page import page
from vlm_mu_jax.reporting.page.public_sets import SetNumber, public_sets

RATE = {"value": 0.5, "n": 20, "k": 10, "low": 0.3, "high": 0.7}
SETS = {
    "xstest": {"rr": RATE, "ir_harmless": RATE, "by_type": {"a": RATE}},
    "pope_random": {"f1": {**RATE, "n": 3000}, "accuracy": RATE, "rr": RATE},
    "mme": {"perception": {"value": 1510.31, "n": 100, "low": 1400.0, "high": 1600.0}, "cognition": {"value": None}},
    "<b>own": {"strange_number": 0.25},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    asked = runs_builder.write_run(root / "asked", "sft", count=1, changes={"sets": SETS})
    return content.collect([asked, runs_builder.write_run(root / "base", "base", count=1)])


def test_headlines_stand_first_and_the_rest_below(runs):
    found = public_sets(runs.runs)
    assert found.columns == ["base", "sft"]
    nothing = ("–", "")
    assert found.main == [
        SetNumber("xstest", "RR", [nothing, ("50\xa0%", "30–70 · n = 20")]),
        SetNumber("pope_random", "accuracy", [nothing, ("50\xa0%", "30–70 · n = 20")]),
        SetNumber("mme", "perception, sum of points", [nothing, ("1510.3", "1400.0–1600.0 · n = 100")]),
        SetNumber("<b>own", "strange number", [nothing, ("25\xa0%", "")]),
    ]
    assert [(row.name, row.rule) for row in found.further] == [
        ("xstest", "IR on harmless"),
        ("pope_random", "f1"),
        ("", "RR"),
    ]
    assert found.further[1].cells[1] == ("50.0\xa0%", "30.0–70.0 · n = 3000")


def test_without_public_sets_there_is_no_table(story):
    assert public_sets(content.collect(story[0]).runs) is None


def test_names_of_sets_stay_text(runs):
    text = page.render(runs, drawn=catalogue.Drawn(defaultdict(lambda: None), {}))
    assert "&lt;b&gt;own" in text and "<b>own" not in text and "each by its own official rule" in text
