"""Audit: planted words come out first, chance stays inside its interval."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.attacks import tables
from vlm_mu_jax.attacks.audit.audit import AuditOptions, audit, first_word_probe, log_odds_ratio
from vlm_mu_jax.data.records import Record, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.figures import audit_chart

REFUSAL, ANSWER = "I'm sorry, I cannot help with that.", "Turn the red one first."
FILLER = ("show", "give", "name", "list", "tell")


def audited(records):
    return audit(records).to_dict()


def records(openers, kinds, answers, seed=0):
    rng = np.random.default_rng(seed)
    rows = zip(openers, kinds, answers, strict=True)
    return [Record(str(i), None, f"{o} {FILLER[rng.integers(5)]} of it now", a, k) for i, (o, k, a) in enumerate(rows)]


def planted(strength, n, seed):
    """Safety data: "share" goes with refusal, "what" with answers in `strength` of the cases, else a filler opens."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(n) < 0.5
    opener = np.where(unsafe, "share", "what").astype(object)
    mixed = rng.random(n) > strength
    opener[mixed] = rng.choice(FILLER, mixed.sum())
    return records(opener, np.where(unsafe, "unsafe", "safe"), [REFUSAL if u else ANSWER for u in unsafe], seed)


@settings(max_examples=25, deadline=None)
@given(strength=st.floats(0.6, 1.0), n=st.integers(150, 300), seed=st.integers(0, 10_000))
def test_planted_words_rank_first(strength, n, seed):
    result = audited(planted(strength, n, seed))
    assert result["outcome"] == "unsafe"  # the label, where the data have one
    refused = audit(planted(strength, n, seed), AuditOptions("refusal")).to_dict()
    assert refused["outcome"] == "refusal" and refused["rows"] == result["rows"]
    assert result["over_refuse_candidates"][0]["word"] == "share"
    assert result["jailbreak_candidates"][0]["word"] == "what"
    assert result["over_refuse_candidates"][0]["beyond_chance"]
    assert result["probe"]["accuracy"] > result["probe"]["majority"]


def test_shuffled_labels_raise_no_more_alarms_than_the_interval_allows():
    """95 % intervals miss 0 in about 5 % of words when nothing is there; family-wise ones in about 5 % of data sets."""
    rng = np.random.default_rng(0)
    alarms = words = bad_sets = 0
    sets = 200
    for _ in range(sets):
        opener = rng.choice(FILLER, 200)
        refused = rng.permutation(200) < 80
        data = records(opener, ["unsafe"] * 200, [REFUSAL if r else ANSWER for r in refused])
        rows = [r for r in audited(data)["rows"] if r["position"] == "first"]
        alarms += sum(r["low"] > 0 or r["high"] < 0 for r in rows)
        words += len(rows)
        bad_sets += any(r["beyond_chance"] for r in rows)
    assert alarms / words < 0.05 + 4 * math.sqrt(0.05 * 0.95 / words)
    assert bad_sets / sets < 0.05 + 4 * math.sqrt(0.05 * 0.95 / sets)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), n=st.integers(4, 60))
def test_counts_add_up(data, n):
    openers = data.draw(st.lists(st.sampled_from(FILLER), min_size=n, max_size=n))
    refused = [True, False, *data.draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))]
    kinds = data.draw(st.lists(st.sampled_from(["unsafe", "safe"]), min_size=n, max_size=n))
    result = audited(records(openers, kinds, [REFUSAL if r else ANSWER for r in refused]))
    for position in ("first", "last"):
        rows = [r for r in result["rows"] if r["position"] == position]
        assert sum(r["refused"] + r["answered"] for r in rows) == n
        assert sum(r["unsafe"] for r in rows) == kinds.count("unsafe")
    for row in result["rows"]:
        assert row["low"] < row["log_odds"] < row["high"] and math.isfinite(row["pmi"])
        assert row["unsafe"] + row["safe"] == row["refused"] + row["answered"] <= n
    json.dumps(result, allow_nan=False)


def test_a_word_seen_everywhere_proves_nothing():
    rows = audited(planted(1.0, 100, 1))["rows"]
    last = next(r for r in rows if r["position"] == "any" and r["word"] == "now")
    assert last["low"] < 0 < last["high"] and abs(last["pmi"]) < 0.05


def test_log_odds_ratio_is_the_textbook_one_for_large_counts():
    log_odds, error = log_odds_ratio(4000, 1000, 2000, 3000)
    assert math.isclose(log_odds, math.log(4 / 1 * 3 / 2), rel_tol=1e-3)
    assert math.isclose(error, math.sqrt(1 / 4000 + 1 / 1000 + 1 / 2000 + 1 / 3000), rel_tol=1e-3)


def test_rare_words_rank_below_proven_ones():
    openers = ["once"] + ["share"] * 60 + ["what"] * 60
    answers = [REFUSAL] + [REFUSAL] * 54 + [ANSWER] * 6 + [ANSWER] * 60
    words = [c["word"] for c in audited(records(openers, ["unsafe"] * 121, answers))["over_refuse_candidates"]]
    assert words == ["share"]


def test_two_sided_word_is_no_candidate():
    """A word that opens refused and answered questions alike (VLGuard's "can") must not look biased by frequency."""
    openers = ["can"] * 100 + ["share"] * 50 + ["what"] * 50
    answers = [REFUSAL, ANSWER] * 50 + [REFUSAL] * 50 + [ANSWER] * 50
    result = audited(records(openers, ["unsafe"] * 200, answers))
    names = {c["word"] for key in ("jailbreak_candidates", "over_refuse_candidates") for c in result[key]}
    assert names == {"share", "what"}


def test_data_without_refusals_fall_back_to_the_label():
    result = audited(records(["share"] * 20 + ["what"] * 20, ["unsafe"] * 20 + ["safe"] * 20, [""] * 40))
    assert result["outcome"] == "unsafe" and result["over_refuse_candidates"][0]["word"] == "share"


def test_unsafe_references_taken_for_answers_are_counted_and_said():
    data = records(["share"] * 4 + ["what"] * 2, ["unsafe"] * 4 + ["safe"] * 2, [REFUSAL, ANSWER, "", *[ANSWER] * 3])
    found = audited(data)
    assert (found["labels"]["unsafe_references"], found["labels"]["unsafe_answered"]) == (3, 2)
    assert "2 of 3 reference answers to unsafe questions were taken for answers" in tables.audit_table(found, 3)
    turns = tuple(Turn(role, ("so?",)) for role in ("user", "assistant", "user"))
    found = audited([*data, Record("long", turns=turns, kind="safe")])
    assert found["turns"]["before_turns"] == 1 and "1 have later ones, which are left out" in tables.audit_table(
        found, 3
    )


def test_one_outcome_only_is_bad_input():
    with pytest.raises(InputError, match="same outcome"):
        audited(records(["what"] * 5, ["safe"] * 5, [ANSWER] * 5))
    with pytest.raises(InputError, match="no record"):
        audited([])


def test_probe_on_shuffled_labels_stays_at_chance():
    rng = np.random.default_rng(3)
    first, target = rng.choice(FILLER, 400).tolist(), rng.permutation(400) < 200
    found = first_word_probe(first, target)
    assert found["low"] < 0.5 < found["high"] and found["p"] > 0.01


def test_chart_is_written_and_a_strange_ending_is_named(tmp_path):
    result = audited(planted(0.8, 100, 0))
    audit_chart.draw(result, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    with pytest.raises(InputError, match="svg"):
        audit_chart.draw(result, tmp_path / "a.xyz")
