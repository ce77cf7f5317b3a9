"""The audit as pictures: how often each first word opens a question of either outcome, and what that proves.

The left half follows Figure 2 of the safety-mirage paper (first words against the label). The right half adds the log
odds with their intervals.
"""

from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files import outputs

_ROLES = {"refused": "rr", "answered": "asr", "unsafe": "rr", "safe": "asr"}
_LABELS = {"first": "questions with this first word", "last": "questions with this last word"}


def draw(result: dict[str, Any], path: str | Path, position: str = "first", most: int = 15) -> None:
    """Writes the chart of an audit's most frequent words. The file's ending gives the format (svg, png, pdf)."""
    from vlm_mu_jax.reporting.figures.canvas import color, panels, style, to_svg  # heavy import

    rows = [row for row in result["rows"] if row["position"] == position][:most]
    pair = ("refused", "answered") if result["outcome"] == "refusal" else ("unsafe", "safe")
    with style():
        figure, (counts, odds) = panels(2, 0.32 * len(rows) + 1.3, width=9.0)
        left = [0] * len(rows)
        for label in pair:
            values = [row[label] for row in rows]
            counts.barh(range(len(rows)), values, left=left, color=color(_ROLES[label]), label=label)
            left = [a + b for a, b in zip(left, values, strict=True)]
        counts.set_yticks(range(len(rows)), [row["word"] for row in rows])
        counts.tick_params(axis="y", labelcolor=color("ink"))
        counts.set_ylim(len(rows) - 0.4, -0.6)
        counts.set_xlabel(_LABELS.get(position, "questions with this word"))
        counts.legend()
        for place, row in enumerate(rows):
            role = _ROLES[pair[0]] if row["low"] > 0 else _ROLES[pair[1]] if row["high"] < 0 else "null"
            odds.plot([row["low"], row["high"]], [place, place], color=color(role), linewidth=2)
            odds.plot([row["log_odds"]], [place], "o", color=color(role))
        odds.axvline(0, color=color("muted"), linewidth=0.8)
        odds.set_xlabel(f"log odds of {'refusal' if pair[0] == 'refused' else 'the unsafe label'}, 95 % interval")
        for axis in (counts, odds):
            axis.grid(axis="x", linewidth=0.6)
        save(to_svg(figure, "words", "Opening words with their counts and log odds"), path)


def save(drawing: Any, path: str | Path) -> None:
    """Writes a `canvas.Drawing` in the format of the file's ending: svg, png or pdf, as it looks on a light page.

    Raises:
      InputError: an ending that is none of these.
    """
    from vlm_mu_jax.reporting.figures.canvas import color, standalone

    path = Path(path)
    if path.suffix == ".svg":
        outputs.write_text(path, standalone(drawing))
    elif path.suffix in (".png", ".pdf"):
        with outputs.complete_file(path) as partial:
            drawing.figure.savefig(partial, dpi=200, facecolor=color("card"))
    else:
        raise InputError(f"{path}: a chart cannot be written in this format; use .svg, .png or .pdf")
