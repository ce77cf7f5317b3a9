"""The audit as a picture: how often each first word opens a question of either outcome, and what that proves.

The left half follows Figure 2 of the safety-mirage paper (first words against the label); the right half adds the
log odds with their intervals.
"""

from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

_COLOURS = {"refused": "#b3403a", "answered": "#3a6ea5", "unsafe": "#b3403a", "safe": "#3a6ea5"}


def draw(result: dict[str, Any], path: str | Path, position: str = "first", most: int = 15) -> None:
    """Writes the chart of an audit's most frequent words; the file's ending gives the format (svg, png, pdf)."""
    from matplotlib.figure import Figure  # heavy import

    rows = [row for row in result["rows"] if row["position"] == position][:most][::-1]
    pair = ("refused", "answered") if result["outcome"] == "refusal" else ("unsafe", "safe")
    figure = Figure(figsize=(9, 0.32 * len(rows) + 1.6), layout="constrained")
    counts, odds = figure.subplots(1, 2, sharey=True)
    names, places = [row["word"] for row in rows], range(len(rows))
    left = [0] * len(rows)
    for label in pair:
        values = [row[label] for row in rows]
        counts.barh(places, values, left=left, color=_COLOURS[label], label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    counts.set_yticks(places, names)
    counts.set_xlabel(f"questions with this {position} word" if position != "any" else "questions with this word")
    counts.legend(frameon=False)
    for place, row in zip(places, rows, strict=True):
        colour = _COLOURS[pair[0]] if row["low"] > 0 else _COLOURS[pair[1]] if row["high"] < 0 else "#888888"
        odds.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        odds.plot([row["log_odds"]], [place], "o", color=colour)
    odds.axvline(0, color="#444444", linewidth=0.8)
    odds.set_xlabel(f"log odds of {'refusal' if pair[0] == 'refused' else 'the unsafe label'}, 95 % interval")
    for axis in (counts, odds):
        axis.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path)
    except ValueError as error:  # matplotlib's message for an ending it cannot write
        raise InputError(f"{path}: a chart cannot be written in this format; use .svg, .png or .pdf") from error
