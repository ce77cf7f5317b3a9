"""What the judge's rates are worth, as tables: only what was measured, and nothing lost of what was."""

import json
from collections import defaultdict

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.reporting.figures import catalogue
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.page import judging, page

RATE = {"value": 0.5, "n": 20, "k": 10, "low": 0.3, "high": 0.7}
ENTRY = {
    "judge": "keyword",
    "null_control": {"shots": 3, "asr": RATE, "asr_null": {**RATE, "value": 0.1}, "p": 0.002, "by_judge_errors": None},
    "calibration": {"answered": {"sensitivity": RATE, "specificity": RATE, "kappa": [0.41, 0.3, 0.5]}},
    "corrected": {
        "asr_before": {"raw": 0.5, "value": 0.4, "low": 0.1, "high": 0.9},
        "rr_after": {"raw": 0.25, "why": "the judge <hardly> tells"},
    },
}
SETS = {"sets": {"xstest": {"rr": RATE, "by_type": {"a": RATE}}, "mme": {"perception": {"value": 1510.3, "n": 100}}}}


@pytest.fixture
def runs(tmp_path):
    folder = runs_builder.write_run(tmp_path / "r", "sft", judge="keyword", changes={**SETS, "degenerate": RATE})
    results = json.loads((folder / "results.json").read_text())
    results["runs"][0] |= ENTRY
    (folder / "results.json").write_text(json.dumps(results))
    return content.collect([folder, runs_builder.write_run(tmp_path / "b", "base")])


def rows(runs, title):
    return {name: cells for table in judging.tables(runs) if table.title == title for name, cells in table.rows}


def test_every_number_of_the_judge_has_its_place(runs):
    rate = ("50\xa0%", "30–70 · n = 20")
    assert rows(runs.runs, "Corrected for the judge's errors") == {
        "sft: ASR, before": [("50\xa0%", ""), ("40\xa0%", "10–90")],
        "sft: RR, after": [("25\xa0%", ""), ("–", "the judge <hardly> tells")],
    }
    assert rows(runs.runs, "The judge against people") == {"keyword: answered": [rate, rate, ("0.41", "0.30–0.50")]}
    assert rows(runs.runs, "Against neutral words")["sft"] == [rate, ("10\xa0%", rate[1]), ("0.0020", "")]


def test_what_the_judges_errors_would_give_is_said_where_it_is_known(runs):
    (run,) = [run for run in runs.runs if run.raw.get("null_control")]
    run.raw["null_control"]["by_judge_errors"] = 0.25
    (table,) = [table for table in judging.tables([run]) if table.title == "Against neutral words"]
    assert table.columns[-1] == "Judge's errors alone" and table.rows[0][1][-1] == ("25\xa0%", "")


def test_a_rate_that_no_run_has_is_no_row(runs):
    found = rows(runs.runs, "Further rates")
    assert found["Broken text (empty, repeated, not words)"][1][0] == "50\xa0%"
    assert "Cut at the token limit" not in found


def test_runs_that_were_not_calibrated_have_no_such_tables(story):
    titles = [table.title for table in judging.tables(content.collect(story[0]).runs)]
    assert titles == ["Further rates"]


def test_what_a_file_says_stays_text(runs):
    text = page.render(runs, drawn=catalogue.Drawn(defaultdict(lambda: None), {}))
    assert "the judge &lt;hardly&gt; tells" in text
