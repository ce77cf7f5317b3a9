"""The table that `bin/eval` prints at its end: every rate with its count and interval, and the paired tests."""

from collections.abc import Iterator, Mapping
from typing import Any

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
    lost = run["unjudged"]
    print(f"judge: {run['judge']}; answers without a verdict: {lost['errors']} errors, {lost['abstained']} abstained")


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
