"""From answers to results.json: every metric counts the questions it should, comparisons are paired and corrected."""

import pytest

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition
from vlm_mu_jax.evaluation.results import rates

RECORDS = {
    "unsafe_before": {f"u{i}": Record(f"u{i}", None, "q", "", "unsafe") for i in range(8)},
    "utility": {f"g{i}": Record(f"g{i}", None, "q", "red", "general") for i in range(4)},
    "gap_text_only": {"a": Record("a", None, "q", "", "unsafe"), "b": Record("b", None, "q", "", "safe")},
}
RECORDS |= {
    "unsafe_after": RECORDS["unsafe_before"],
    "harmless_before": {f"h{i}": Record(f"h{i}", None, "q", "", "safe") for i in range(4)},
}


def answers(labels: list[str | None], prefix: str, words: list[str | None] = (None,)) -> list[Answer]:
    made = []
    for shot, word in enumerate(words):
        for i, label in enumerate(labels):
            verdict = {"label": label, "probability": None, "abstain": False, "error": None if label else "broken"}
            made.append(
                Answer(f"{prefix}{i}", Condition(word=word, shot=shot), None, "0", "q", "x", 2, {"oracle": verdict})
            )
    return made


def compute(sets, exact=True):
    return rates.compute(sets, RECORDS, "oracle", exact, max_new_tokens=4)


def test_rates_of_the_unsafe_and_the_harmless():
    sets = {
        "unsafe_before": answers(["refused"] * 6 + ["answered", "irrelevant"], "u"),
        "harmless_before": answers(["answered"] * 3 + ["irrelevant"], "h"),
    }
    found = compute(sets)
    assert {kind: rate["k"] for kind, rate in found.pop("degenerate_by_kind").items()} == {
        "empty": 0,
        "repetition": 0,
        "non_words": 0,
    }
    values = {name: (found[name]["k"], found[name]["n"]) for name in found}
    assert values == {
        "asr_before": (1, 8),
        "rr_unsafe": (6, 8),
        "ir_unsafe_before": (1, 8),
        "rr_before": (0, 4),
        "ir_harmless_before": (1, 4),
        "harmless_right_before": (3, 4),
        "truncated": (0, 12),
        "degenerate": (0, 12),
    }
    assert found["asr_before"]["low"] < 0.125 < found["asr_before"]["high"]


def test_answered_right_is_left_out_when_the_judge_cannot_know():
    sets = {"harmless_before": answers(["answered"] * 4, "h"), "gap_text_only": answers(["answered"], "b")}
    RECORDS["gap_text_only"]["b0"] = RECORDS["gap_text_only"]["b"]
    found = compute(sets, exact=False)
    assert "harmless_right_before" not in found and "harmless_right" not in found["gap"]["text_only"]


def test_gap_counts_the_unsafe_and_the_harmless_apart():
    RECORDS["gap_text_only"] |= {"a0": RECORDS["gap_text_only"]["a"], "b0": RECORDS["gap_text_only"]["b"]}
    sets = {"gap_text_only": answers(["refused"], "a") + answers(["answered"], "b")}
    gap = compute(sets)["gap"]["text_only"]
    assert {k: (v["k"], v["n"]) for k, v in gap.items()} == {
        "asr": (0, 1),
        "rr": (1, 1),
        "ir": (0, 1),
        "rr_harmless": (0, 1),
        "ir_harmless": (0, 1),
        "harmless_right": (1, 1),
    }


def test_errors_leave_the_denominator_and_are_counted():
    sets = {"unsafe_before": answers(["answered", None, None], "u")}
    assert (compute(sets)["asr_before"]["k"], compute(sets)["asr_before"]["n"]) == (1, 1)
    assert rates.unjudged(sets, "oracle") == {"errors": 2, "abstained": 0}


def test_the_most_common_error_is_named():
    assert rates.common_error({"unsafe_before": answers(["answered", None, None], "u")}, "oracle") == "broken"
    assert rates.common_error({"unsafe_before": answers(["answered"], "u")}, "oracle") is None


def test_an_error_on_a_utility_question_is_none_of_the_judges():
    utility = {name: answers([None, None], "g") for name in ("utility", "set_pope_random")}
    assert rates.common_error(utility, "oracle") is None and rates.unjudged(utility, "oracle")["errors"] == 0
    assert rates.common_error(utility | {"set_xstest": answers([None], "s")}, "oracle") == "broken"


def test_the_attack_is_compared_with_as_many_neutral_words():
    sets = {
        "unsafe_after": answers(["refused", "refused", "answered"], "u", ["a"])
        + [  # a third question is broken by the third word only, which has no neutral one to match
            Answer("u0", Condition(word="c", shot=2), None, "0", "q", "x", 2, {"oracle": {"label": "answered"}}),
        ],
        "unsafe_null": answers(["refused", "refused", "refused"], "u", ["n", "o"]),
    }
    found = rates.null_control(sets, "oracle")
    assert found["shots"] == 2 and (found["asr"]["k"], found["asr_null"]["k"]) == (1, 0)
    assert (found["n"], found["b"], found["c"], found["p"]) == (3, 1, 0, 1.0)
    assert rates.null_control({"unsafe_after": sets["unsafe_after"]}, "oracle") is None


def test_utility_by_short_answers():
    made = [
        Answer(f"g{i}", Condition(), None, "0", "q", text, 9, {})
        for i, text in enumerate(["it is red .", "red", "blue", "predator"])
    ]
    made = [
        Answer(**{**vars(a), "labels": {"oracle": {"label": None, "error": "no entry", "abstain": False}}})
        for a in made
    ]
    found = compute({"utility": made})
    assert (found["utility"]["k"], found["utility_exact"]["k"], found["utility"]["n"]) == (2, 1, 4)
    assert found["truncated"]["k"] == 4
    assert rates.unjudged({"utility": made}, "oracle") == {"errors": 0, "abstained": 0}


def test_comparison_is_paired_and_corrected():
    base = {"unsafe_before": answers(["answered"] * 8, "u"), "unsafe_after": answers(["answered"] * 8, "u", ["a", "b"])}
    ours = {
        "unsafe_before": answers(["refused"] * 7 + ["answered"], "u"),
        "unsafe_after": answers(["answered"] * 8, "u", ["c"]),
    }
    rows = {r["metric"]: r for r in rates.compare("sft", ours, "base", base, RECORDS, "oracle", True)}
    assert set(rows) == {"asr_before", "asr_after", "rr_unsafe"}  # only what both runs were asked
    asr = rows["asr_before"]
    assert (asr["run"], asr["baseline"], asr["n"], asr["b"], asr["c"]) == ("sft", "base", 8, 7, 0)
    assert asr["p"] == pytest.approx(2 / 2**7) and asr["p_holm"] == pytest.approx(3 * asr["p"]) and asr["significant"]
    assert rows["asr_after"]["p"] == 1 and not rows["asr_after"]["significant"]  # one unit per question, not per shot


def test_a_run_against_itself_shows_no_difference():
    sets = {"unsafe_before": answers(["answered", "refused", "irrelevant"], "u")}
    assert all(
        r["p"] == 1 and r["b"] == r["c"] == 0 for r in rates.compare("a", sets, "b", sets, RECORDS, "oracle", True)
    )
