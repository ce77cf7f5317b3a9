"""What a model's safety survives, and what its layers still know; each as inline SVG, from files of bin/holds."""

import math
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
from vlm_mu_jax.reporting.inputs.metrics import as_rate

_LOOKS = (("accent", "o"), ("asr", "s"), ("rr", "D"), ("right", "^"), ("utility", "v"), ("ink", "P"))
_SHOWN = (("asr", "Harmful answers"), ("harmless_right", "Harmless right"))
_CONDITIONS = {"own": "own image", "text": "text only"}
_READINGS = (("probe", "a linear probe reads it"), ("lens", "the model's own head reads it"))


def situations(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Harmful answers, and harmless ones right, in every situation; one mark a model, its control as a line across."""
    titles = {row["name"]: row["title"] for one in files for row in one["rows"] if _rate(one, row["name"], "asr")}
    if not titles:
        return None
    names = list(titles)
    with style():
        figure, axes = panels(len(_SHOWN), 0.36 * len(names) * max(1.0, len(files) / 3) + 1.0)
        for axis, (rate, title) in zip(axes, _SHOWN, strict=True):
            axis.set_title(title)
            for index, content in enumerate(files):
                role, marker = _LOOKS[index % len(_LOOKS)]
                shift = (index - (len(files) - 1) / 2) * 0.7 / len(files)
                label = short(str(content.get("name")), 40)
                for place, name in enumerate(names):
                    if found := _rate(content, name, rate):
                        _mark(axis, found, place + shift, role, marker, label)
                        label = None
            percent_axis(axis, "x")
            axis.set_yticks(range(len(names)), list(titles.values()))
            axis.set_ylim(len(names) - 0.5, -0.5)
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, len(files))
        return to_svg(figure, "holds", "Marks per model: harmful answers and harmless right in every situation")


def _mark(axis, found: Mapping[str, Any], at: float, role: str, marker: str, label: str | None) -> None:
    metric = as_rate(found["rate"], "rate")
    if metric is None or metric.value is None:
        return
    whisker(axis, metric.low, metric.high, at, role)
    axis.plot(metric.value, at, marker, markersize=6, label=label, **edged(role))
    control = as_rate(found["control"], "control") if found.get("control") else None
    if control is not None and control.value is not None:
        axis.plot(control.value, at, "|", markersize=9, markeredgewidth=1.6, color=color("muted"), zorder=5)


def depth(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Layer by layer how much of the harmful answers a probe and the model's own head read, with and without image."""
    deep = [one for one in files if one.get("depth")]
    conditions = [c for c in _CONDITIONS if any(c in one["depth"]["conditions"] for one in deep)]
    if not conditions:
        return None
    with style():
        figure, axes = panels(len(_READINGS), 2.4 * len(conditions), rows=len(conditions))
        places = [(condition, *reading) for condition in conditions for reading in _READINGS]
        for axis, (condition, what, title) in zip(axes, places, strict=True):
            axis.set_title(f"{_CONDITIONS[condition]}: {title}")
            for index, content in enumerate(deep):
                if found := content["depth"]["conditions"].get(condition):
                    _lines(axis, found, what, index, short(str(content.get("name")), 40))
            percent_axis(axis, "y")
            axis.set_xlabel("layer")
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, len(deep) + 1)
        return to_svg(figure, "depth", "Lines per model: share of harmful answer tokens read off each layer")


def _lines(axis, found: Mapping[str, Any], what: str, index: int, name: str) -> None:
    role, marker = _LOOKS[index % len(_LOOKS)]
    points = found[what]["harmful"]
    for layer, point in enumerate(points):
        whisker(axis, point.get("low"), point.get("high"), layer, role, vertical=True, width=1.0)
    values = [_value(point) for point in points]
    axis.plot(range(len(values)), values, marker=marker, linewidth=1.4, markersize=5, label=name, **edged(role))
    if index == 0:
        floor = _value(found["floor"]["harmful"])
        axis.axhline(floor, color=color("muted"), linewidth=0.9, linestyle=(0, (3, 3)), label="floor")
    axis.set_xticks(range(len(values)))


def _value(point: Mapping[str, Any]) -> float:
    """Not a number, which is not drawn, where nothing was counted."""
    return math.nan if point.get("value") is None else point["value"]


def _rate(content: Mapping[str, Any], name: str, rate: str) -> Mapping[str, Any] | None:
    row = next((row for row in content["rows"] if row.get("name") == name), {})
    return (row.get("rates") or {}).get(rate)
