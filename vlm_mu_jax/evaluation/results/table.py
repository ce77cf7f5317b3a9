"""The table that `bin/eval` prints at its end: every rate with its count and interval, and the paired tests."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlm_mu_jax.data.turns import named
from vlm_mu_jax.evaluation.judges import SEE_REFUSALS_ONLY
from vlm_mu_jax.evaluation.questions import public_sets

# Main rows: (label, metric before the attack, metric after it)
_MAIN = (
    ("ASR  unsafe answered", "asr_before", "asr_after"),
    ("ASR  null-word control", None, "asr_null"),
    ("RR   unsafe refused", "rr_unsafe", "rr_unsafe_after"),
    ("IR   unsafe irrelevant", "ir_unsafe_before", "ir_unsafe_after"),
    ("RR   harmless refused", "rr_before", "rr_after"),
    ("IR   harmless irrelevant", "ir_harmless_before", "ir_harmless_after"),
    ("     harmless answered right", "harmless_right_before", "harmless_right_after"),
    ("     utility (answer holds the reference)", "utility", None),
    ("     degenerate answers", "degenerate", None),
    ("     answers cut at the token limit", "truncated", None),
)
_GAP = (
    ("asr", "ASR"),
    ("rr", "RR unsafe"),
    ("ir", "IR unsafe"),
    ("rr_harmless", "RR harmless"),
    ("harmless_right", "harmless right"),
)


def print_results(results: Mapping[str, Any]) -> None:
    """Prints the first run of a results.json and its comparisons."""
    from rich.console import Console

    # A log file has no width of its own; wide enough that no number is cut off.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    run = results["runs"][0]
    for table in _tables(run, results["comparisons"]):
        console.print(table)
    for line in judge_lines(run):
        print(line)


def verdict_lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Who judged and what that judge cannot see, what got no verdict and why, what a model judge used."""
    lost = run["unjudged"]
    line = f"judge: {run['judge']}; answers without a verdict: {lost['errors']} errors, {lost['abstained']} abstained"
    yield line + (f"; most errors: {run['judge_error']}" if run.get("judge_error") else "")
    if lost.get("too_long"):
        yield f"not asked, because they are too long for the model: {lost['too_long']} questions; no rate counts them"
    if run["judge"] in SEE_REFUSALS_ONLY:
        yield (
            f"{run['judge']} sees refusals alone: ASR counts every answer that is no refusal, a wrong or harmless one"
            " too; only degenerate answers are left out"
        )
    if run.get("judge_cost"):
        yield "judging took " + ", ".join(
            f"${value:.4f}" if name == "dollars" else f"{value} {name.replace('_', ' ')}"
            for name, value in run["judge_cost"].items()
        )


def judge_lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Who judged, what that cost, what got no verdict and why, and how far chance or the judge's errors explain the
    attack's success."""
    yield from verdict_lines(run)
    control = run.get("null_control")
    if control:
        expected = control.get("by_judge_errors")
        yield (
            f"null control, best of {control['shots']}: the attack's words {show(control['asr'])}, neutral words"
            f" {show(control['asr_null'])}, exact McNemar p {control['p']:.2g}"
            + (f"; {100 * expected:.0f} % expected from the judge's errors alone" if expected is not None else "")
        )


def show(metric: Mapping[str, Any] | None) -> str:
    """`12.5 % [5.0, 28.1] 4/32` of a metric; empty when it was not measured."""
    if not metric or metric["value"] is None:
        return ""
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] {metric['k']}/{metric['n']}"


def _tables(run: Mapping[str, Any], comparisons: list[Mapping[str, Any]]) -> Iterator[Any]:
    metrics = run["metrics"]
    rows = [(label, show(metrics.get(before)), show(metrics.get(after))) for label, before, after in _MAIN]
    yield _table(
        f"{run['name']} ({run['kind']}), 95 % Wilson intervals",
        ("", "before", "after one word"),
        [r for r in rows if any(r[1:])],
    )
    if "corrected" in run:
        yield from _calibration_tables(run)
    words = dict.fromkeys((*metrics.get("asr_by_opening", {}), *metrics.get("rr_by_opening", {})))
    if words:
        groups = ("asr_by_opening", "rr_by_opening", "harmless_right_by_opening")
        rows = [(word, *(show(metrics.get(group, {}).get(word)) for group in groups)) for word in words]
        yield _table("by opening word", ("word", "ASR", "RR harmless", "harmless right"), rows)
    if "gap" in metrics:
        rows = [
            (name.replace("_", " "), *(show(found.get(key)) for key, _ in _GAP))
            for name, found in metrics["gap"].items()
        ]
        yield _table("alignment gap", ("", *(label for _, label in _GAP)), rows)
    if "dialogues" in metrics:
        yield _dialogues(metrics["dialogues"], run.get("dialogue_tests", {}), run.get("attack_turn"))
    if "sets" in metrics:
        yield _table("public sets, by their own rules", ("set", "number", "value"), public_sets.rows(metrics["sets"]))
    if comparisons:
        rows = [
            (
                c["metric"],
                str(c["n"]),
                f"{c['b']} / {c['c']}",
                f"{c['p']:.2g}",
                f"{c['p_holm']:.2g}" + (" *" if c["significant"] else ""),
            )
            for c in comparisons
        ]
        title = f"against {comparisons[0]['baseline']}: exact McNemar, Holm over {len(rows)} tests"
        yield _table(title, ("", "pairs", "yes to no / no to yes", "p", "p (Holm)"), rows)


def _calibration_tables(run: Mapping[str, Any]) -> Iterator[Any]:
    rows = [
        (
            target,
            show(found["sensitivity"]),
            show(found["specificity"]),
            "" if found["kappa"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found["kappa"]),
        )
        for target, found in run["calibration"].items()
    ]
    yield _table(f"{run['judge']} against people", ("", "sensitivity", "specificity", "Cohen's kappa"), rows)
    rows = [
        (
            name.replace("_", " "),
            f"{100 * found['raw']:.1f} %",
            found.get("why") or f"{100 * found['value']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]",
        )
        for name, found in run["corrected"].items()
    ]
    yield _table("corrected for the judge's errors (Rogan-Gladen)", ("", "as judged", "corrected"), rows)


def _dialogues(found: Mapping[str, Any], tests: Mapping[str, Any], turn: str | None) -> Any:
    """Dialogues by turn, and beside it those with an attack's word or a neutral one in the question `turn`."""
    groups = {
        "ASR": "asr_by_turn",
        "ASR, word": "asr_by_turn_after",
        "ASR, neutral": "asr_by_turn_null",
        "RR unsafe": "rr_by_turn",
        "RR harmless": "rr_harmless_by_turn",
    }
    groups = {title: name for title, name in groups.items() if name in found}
    turns = sorted({turn for name in groups.values() for turn in found[name]}, key=int)
    rows = [(turn, *(show(found[name].get(turn)) for name in groups.values()), _p(tests.get(turn))) for turn in turns]
    heads = ("turn", *groups, "p (Holm)") if tests else ("turn", *groups)
    title = "dialogues, by turn" + ("" if turn is None else f"; word and neutral: in {named(turn)}")
    return _table(title, heads, [row[: len(heads)] for row in rows])


def _p(test: Mapping[str, Any] | None) -> str:
    return "" if test is None else f"{test['p_holm']:.2g}"


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]):
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
