"""Attacks by other methods than the word search (bin/attack --method), side by side with their controls."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.reporting.figures.canvas import (
    Drawing,
    color,
    legend,
    panels,
    percent_axis,
    style,
    to_svg,
    whisker,
)
from vlm_mu_jax.reporting.figures.models import edged, short
from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate

_GOALS = {"jailbreak": ("Harmful requests answered", "asr"), "over_refuse": ("Harmless questions refused", "rr")}
_SIDES = (("original", "unchanged", "accent", "D"), ("control", "control", "null", "s"))


def methods(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """The rate unchanged, under the control and under the attack, per file and set of questions. One panel per goal."""
    panels_of = {goal: [row for file in files for row in _rows(file, goal)] for goal in _GOALS}
    panels_of = {goal: rows for goal, rows in panels_of.items() if rows}
    if not panels_of:
        return None
    most = max(map(len, panels_of.values()))
    with style():
        figure, axes = panels(len(panels_of), 1.2 + 0.4 * most, share_y=False)
        named = {}
        for axis, (goal, rows) in zip(axes, panels_of.items(), strict=True):
            title, role = _GOALS[goal]
            axis.set_title(title)
            for y, (_, metrics) in enumerate(rows):
                for index, (name, label, own, marker) in enumerate((*_SIDES, ("attack", "attack", role, "o"))):
                    if metric := metrics[name]:
                        at = y + 0.2 * (index - 1)
                        whisker(axis, metric.low, metric.high, at, own, width=1.0)
                        named.setdefault(label, axis.plot(metric.value, at, marker, markersize=6, **edged(own))[0])
            percent_axis(axis)
            axis.set_yticks(range(len(rows)), [short(label, 34) for label, _ in rows])
            axis.tick_params(axis="y", labelcolor=color("ink"))
            axis.set_ylim(most - 0.4, -0.6)
        legend(figure, list(named.values()), list(named), 3)
        return to_svg(figure, "methods", "Dots per attack: rates unchanged, under the control and under the attack")


def _rows(file: Mapping[str, Any], goal: str) -> list[tuple[str, dict[str, Rate | None]]]:
    """(label, the three rates) of each set of questions of one file."""
    found = []
    for row in file.get("rows") or []:
        if row.get("goal") == goal:
            words = (
                file.get("model"),
                file.get("method"),
                row.get("questions"),
                "guarded" if file.get("guarded") else "",
            )
            label = ", ".join(str(word) for word in words if word)
            names = ("original", "control", "attack")
            found.append((label, {name: as_rate(row.get(name), f"{label}: {name}") for name in names}))
    return found
