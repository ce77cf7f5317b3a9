"""Paired tests: one table per pair of models, what is the same said once, every field kept."""

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.page import comparisons


def row(run="npo", metric="asr_after", **fields):
    return {"run": run, "baseline": "sft", "metric": metric, "test": "exact McNemar", **fields}


def test_one_table_per_pair_and_seed():
    rows = [row(seed=0), row("rmu", seed=0), row(metric="rr_after", seed=0), row(seed=1)]
    found = comparisons.pairs(rows)
    titles = ["npo against sft, seed 0", "rmu against sft, seed 0", "npo against sft, seed 1"]
    assert [pair.title for pair in found] == titles
    assert [cells[0] for cells in found[0].rows] == ["ASR, after", "RR, after"]
    assert comparisons.pairs([row(seed=7)])[0].title == "npo against sft", "one seed needs no name"


def test_what_is_the_same_is_said_once_and_what_differs_is_a_column():
    rows = [row(n=9, p=0.5, significant=False), row(metric="utility", n=9, p=1e-9, significant=True, odd="x")]
    (pair,) = comparisons.pairs(rows)
    assert pair.columns == ["metric", "n", "p", "significant", "odd"] and pair.same == "exact McNemar"
    assert pair.rows == [["ASR, after", "9", "0.50", "no", ""], ["utility", "9", "< 0.0001", "yes", "x"]]
    assert pair.tally == "1 of 2 differ significantly"


def test_little_is_known_of_a_row():
    (pair,) = comparisons.pairs([{"p": None, "nested": {"a": 1}}])
    assert (pair.tally, pair.columns, pair.rows) == ("", ["p"], [[""]])


def test_metrics_have_names():
    assert wording.metric("gap/blank_image/asr") == "ASR, blank image"
    assert wording.metric("harmless_right_before") == "harmless right, before"
    assert wording.metric("ir_harmless_after") == "IR on harmless, after"
    assert wording.metric("rr_unsafe") == "RR on unsafe"
