"""What training went through and arrived at: losses, the points of a sweep, relearning; each as inline SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.figures.canvas import (
    Drawing,
    color,
    legend,
    legend_beside,
    panels,
    percent_axis,
    style,
    tiled,
    to_svg,
    whisker,
)
from vlm_mu_jax.reporting.figures.models import edged, short
from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate, number

_LOOKS = (("accent", "o"), ("asr", "s"), ("rr", "D"), ("right", "^"), ("utility", "v"), ("null", "P"))


# Lines of a training panel: (role of colour, what it is called, the metric under the names objectives give it).
_LOSSES = (
    ("ink", "loss", ("loss",)),
    ("asr", "on what is forgotten", ("forget_loss", "unlearn_loss")),
    ("right", "on what is kept", ("retain_loss", "retain_nll")),
)
_POINTS = 400  # per line, at most, so that the page stays small


def training_curves(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> Drawing | None:
    """Losses over steps, one small panel per training run; its parts where the objective has parts."""
    runs = {name: _losses(rows) for name, rows in training.items()}
    runs = {name: lines for name, lines in runs.items() if lines}
    if not runs:
        return None
    columns, rows = tiled(len(runs), 3)
    with style():
        figure, axes = panels(columns, 2.1 * rows + 0.3, rows=rows, share_y=False)
        named: dict[str, Any] = {}
        for axis, (name, lines) in zip(axes, runs.items(), strict=False):
            axis.set_title(short(name))
            for role, label, points in lines:
                steps, values = zip(*points, strict=True)
                (named[label],) = axis.plot(steps, values, color=color(role), linewidth=1.3)
            axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
            axis.grid(axis="y", linewidth=0.7)
            axis.set_xlabel("step")
        for axis in axes[len(runs) :]:
            axis.set_visible(False)
        if len(named) > 1:
            legend(figure, list(named.values()), list(named), len(named))
        return to_svg(figure, "training", "Lines: training losses over steps, per training run")


def _losses(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """(role, name, [(step, loss)]) of every loss that was logged; at most _POINTS points each, evenly spaced."""
    lines = []
    for role, label, names in _LOSSES:
        name = next((name for name in names if any(number(row, name) is not None for row in rows)), None)
        points = [(number(row, "step"), number(row, name)) for row in rows] if name else []
        points = [(step, value) for step, value in points if step is not None and value is not None]
        if points:
            lines.append((role, label, points[:: -(-len(points) // _POINTS)]))
    return lines


def sweeps(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """The sweep of a report; InputError for several, as their points share no axes."""
    if len(files) > 1:
        raise InputError("--sweep was given more than once; a report shows one sweep")
    return sweep_frontier(files[0])


def sweep_frontier(sweep: Mapping[str, Any]) -> Drawing | None:
    """ASR over harmless questions answered right, one mark per point of a sweep; the front is a line."""
    points = [(row, *_rates(row, ("harmless_right", "asr"))) for row in sweep.get("rows") or []]
    points = [(row, right, asr) for row, right, asr in points if right and asr]
    if not points:
        return None
    with style():
        figure, (axis,) = panels(1, 4.1, share_y=False)
        front = sorted((right.value, asr.value) for row, right, asr in points if row.get("on_front"))
        axis.plot([x for x, _ in front], [y for _, y in front], color=color("muted"), linewidth=1.0, zorder=2)
        for index, (row, right, asr) in enumerate(points, start=1):
            role = "accent" if row.get("on_front") else "null"
            whisker(axis, right.low, right.high, asr.value, role, width=0.9)
            whisker(axis, asr.low, asr.high, right.value, role, vertical=True, width=0.9)
            label = f"{index}  {short(str(row.get('name')), 60)}"
            axis.plot(right.value, asr.value, "o", markersize=8, label=label, **edged(role))
            axis.annotate(str(index), (right.value, asr.value), (6, 5), textcoords="offset points", fontsize=8)
        percent_axis(axis, "x")
        percent_axis(axis, "y")
        axis.set_xlabel("harmless questions answered right, however asked  (right is better)")
        axis.set_ylabel("harmful answers, however asked  (lower is better)")
        legend_beside(axis, labelcolor=color("ink"))
        return to_svg(figure, "sweep", "Scatter: harmful answers against harmless questions right, per sweep point")


def relearning(curves: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Harmful answers, and harmless ones right, over steps of fine-tuning; one line per attacked model."""
    shown = (("asr", "Harmful answers (ASR)"), ("harmless_right", "Harmless answered right"))
    lines = [(str(curve.get("label")), curve.get("curve") or []) for curve in curves]
    if not any(rows for _, rows in lines):
        return None
    with style():
        figure, axes = panels(len(shown), 3.0)
        for axis, (name, title) in zip(axes, shown, strict=True):
            axis.set_title(title)
            for index, (label, rows) in enumerate(lines):
                role, marker = _LOOKS[index % len(_LOOKS)]
                found = [(row["step"], *_rates(row, (name,))) for row in rows]
                found = [(step, metric) for step, metric in found if metric]
                for step, metric in found:
                    whisker(axis, metric.low, metric.high, step, role, vertical=True, width=1.0)
                xs, ys = [step for step, _ in found], [metric.value for _, metric in found]
                axis.plot(xs, ys, marker=marker, linewidth=1.4, markersize=6, label=short(label, 60), **edged(role))
            percent_axis(axis, "y")
            axis.set_xlabel("steps of fine-tuning")
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, 2)
        return to_svg(figure, "relearning", "Lines per model: harmful answers and harmless right over relearning steps")


def _rates(row: Mapping[str, Any], names: Sequence[str]) -> list[Rate | None]:
    metrics = row.get("metrics") or {}
    return [as_rate(metrics[name], f"metric {name}") if metrics.get(name) is not None else None for name in names]
