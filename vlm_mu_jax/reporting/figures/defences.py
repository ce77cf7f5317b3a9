"""Defences side by side (bin/defences), and what bin/guard diagnose found about directions and answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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

_IMAGES = {
    "text_only": ("text only", "accent", "o"),
    "blank_image": ("blank image", "asr", "s"),
    "own_image": ("own image", "rr", "D"),
}
_LOOKS = (("accent", "o"), ("asr", "s"), ("rr", "D"), ("right", "^"), ("utility", "v"), ("null", "P"))
_NAMES = {
    "text": "text only",
    "blank": "blank image",
    "own": "own image",
    "llm": "other language model",
    "two_halves": "text only, half against half",
}


def defences(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Harmful answers per defence and image condition, a panel per instruction setting, and over-refusal beside it."""
    rows = [row for file in files for row in file.get("rows") or [] if row.get("metrics")]
    found = [(str(row.get("name")), row["metrics"].get("settings") or {}) for row in rows]
    settings = list(dict.fromkeys(setting for _, own in found for setting in own))
    if not settings:
        return None
    shown = [(f"ASR, {setting.replace('_', ' ')}", setting, "asr") for setting in settings]
    refusing = "direct" if "direct" in settings else settings[0]
    shown.append((f"Harmless refused, {refusing.replace('_', ' ')}", refusing, "rr_harmless"))
    with style():
        figure, axes = panels(len(shown), 1.2 + 0.45 * len(found))
        for axis, (title, setting, name) in zip(axes, shown, strict=True):
            axis.set_title(title)
            for y, (_, own) in enumerate(found):
                for index, (image, (label, role, marker)) in enumerate(_IMAGES.items()):
                    cell = own.get(setting, {}).get(image, {})
                    metric = as_rate(cell.get(name), f"defences.json: {setting} {image}")
                    if metric:
                        at = y + 0.22 * (index - 1)
                        whisker(axis, metric.low, metric.high, at, role, width=1.0)
                        axis.plot(metric.value, at, marker, markersize=6, label=None if y else label, **edged(role))
            percent_axis(axis, steps=2)
            axis.set_yticks(range(len(found)), [short(label, 26) for label, _ in found])
            axis.tick_params(axis="y", labelcolor=color("ink"))
            axis.set_ylim(len(found) - 0.4, -0.6)
        _legend(figure, axes[0])
        return to_svg(figure, "defences", "Dots: harmful answers and refused harmless requests, per defence and image")


def directions(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Per layer: a direction fitted anew in each condition, its cosine with the text's, and the blank images' kinds."""
    guard = files[0]
    stress = {kind: row.get("auroc") for kind, row in (guard.get("stress") or {}).items()}
    shown = [
        ("Separation, fitted anew (AUROC)", guard.get("auroc_refit"), 0.5),
        ("Cosine with the text's direction", guard.get("cosine"), 0.0),
        ("Separation by kind of blank (AUROC)", stress, 0.5),
    ]
    shown = [(title, _drawn(curves), level) for title, curves, level in shown]
    shown = [(title, curves, level) for title, curves, level in shown if curves]
    if not shown:
        return None
    with style():
        figure, axes = panels(len(shown), 3.1, share_y=False)
        for axis, (title, curves, level) in zip(axes, shown, strict=True):
            axis.set_title(title)
            for index, (name, values) in enumerate(curves.items()):
                # A condition looks the same in all panels.
                place = list(_NAMES).index(name) if name in _NAMES else index
                role, marker = _LOOKS[place % len(_LOOKS)]
                label = _NAMES.get(name, short(name))
                axis.plot(range(len(values)), values, marker, linestyle="-", markersize=5, label=label, **edged(role))
            axis.axhline(level, color=color("muted"), linewidth=0.9, linestyle=(0, (3, 3)))
            axis.set_ylim(min(level, *(np.nanmin(values) for values in curves.values())) - 0.05, 1.05)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_xlabel("layer")
            axis.grid(axis="y", linewidth=0.7)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
        title = "Lines per layer: separation and cosine of safety directions, per condition"
        return to_svg(figure, "directions", title)


def _drawn(curves: Mapping[str, Sequence[float | None] | None] | None) -> dict[str, np.ndarray]:
    """Curves with a number at least; what is missing is not a number, which is not drawn."""
    found = {name: np.array(values or [], float) for name, values in (curves or {}).items()}
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def answers(files: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """What becomes of harmful requests in every image condition, and perplexity and length of all answers."""
    conditions = (files[0].get("answers") or {}).get("conditions") or {}
    if not conditions:
        return None
    rates = [("harmful", "answered", "asr"), ("harmful", "refused", "rr"), ("harmless", "refused", "null")]
    numbers = [("Perplexity", "perplexity"), ("Tokens per answer", "tokens")]
    with style():
        figure, axes = panels(3, 1.2 + 0.4 * len(conditions), ratios=(2, 1, 1))
        for y, row in enumerate(conditions.values()):
            for index, (kind, label, role) in enumerate(rates):
                metric = as_rate(row.get(kind, {}).get(label), f"diagnostics: {kind} {label}")
                if metric:
                    at = y + 0.22 * (index - 1)
                    whisker(axes[0], metric.low, metric.high, at, role, width=1.0)
                    axes[0].plot(metric.value, at, "o", label=None if y else f"{kind} {label}", **edged(role))
            for axis, (title, name) in zip(axes[1:], numbers, strict=True):
                axis.set_title(title)
                if metric := as_rate(row.get(name), f"diagnostics: {name}"):
                    whisker(axis, metric.low, metric.high, y, "accent", width=1.0)
                    axis.plot(metric.value, y, "o", **edged("accent"))
        for axis in axes:
            axis.grid(axis="x", linewidth=0.7)
            axis.set_yticks(range(len(conditions)), [_NAMES.get(n, f"{short(n)} blank image") for n in conditions])
            axis.tick_params(axis="y", labelcolor=color("ink"))
            axis.set_ylim(len(conditions) - 0.4, -0.6)
        percent_axis(axes[0])
        _legend(figure, axes[0])
        return to_svg(figure, "stress", "Dots: outcomes, perplexity and length of answers, per image condition")


def _legend(figure, axis) -> None:
    handles, labels = axis.get_legend_handles_labels()
    legend(figure, handles, labels, len(labels))
