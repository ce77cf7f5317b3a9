"""Hidden states with and without an image, and how well a direction separates them; each as inline SVG."""

from typing import Any

from vlm_mu_jax.reporting.figures.canvas import (
    Drawing,
    color,
    legend,
    legend_beside,
    panels,
    style,
    to_svg,
    whisker,
)
from vlm_mu_jax.reporting.figures.models import short

_CONDITIONS = {
    "text": "text only",
    "text_only": "text only",
    "blank": "blank image",
    "blank_image": "blank image",
    "own": "own image",
    "own_image": "own image",
}


def pca_points(guard: dict[str, Any]) -> list[dict[str, Any]]:
    points = (guard.get("pca") or {}).get("points") or []
    return [p for p in points if p.get("x") is not None and p.get("y") is not None]


def hidden_states(guard: dict[str, Any]) -> Drawing | None:
    """Hidden states of harmful and harmless requests in one plane, one panel per input condition, same axes."""
    points = pca_points(guard)
    conditions = list(dict.fromkeys(str(p.get("condition")) for p in points))
    if not conditions:
        return None
    with style():
        figure, axes = panels(len(conditions), 3.3)
        for axis, condition in zip(axes, conditions, strict=True):
            axis.set_title(_CONDITIONS.get(condition, short(condition)))
            for kind, role, marker in (("harmless", "right", "D"), ("harmful", "asr", "o")):
                mine = [p for p in points if str(p.get("condition")) == condition and p.get("kind") == kind]
                look = {"s": 22, "marker": marker, "color": color(role), "alpha": 0.75, "edgecolors": color("card")}
                axis.scatter([p["x"] for p in mine], [p["y"] for p in mine], linewidths=0.5, label=kind, **look)
            axis.set_xlim(*_limits([p["x"] for p in points]))
            axis.set_ylim(*_limits([p["y"] for p in points]))
            axis.set_xticks([])
            axis.set_yticks([])
            for side in ("left", "right", "top"):
                axis.spines[side].set_visible(True)
            axis.set_xlabel("first component")
        axes[0].set_ylabel("second component")
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, 2)
        return to_svg(
            figure, "pca", "Scatter per condition: hidden states of harmful and harmless requests in two components"
        )


def separation(guard: dict[str, Any]) -> Drawing | None:
    """How well the text-only safety direction tells harmful from harmless, per layer and input condition (AUROC)."""
    curves = {condition: values for condition, values in (guard.get("auroc") or {}).items() if values}
    if not curves:
        return None
    bands = guard.get("auroc_interval") or {}
    with style():
        figure, (axis,) = panels(1, 2.7)
        looks = (("accent", "o"), ("asr", "s"), ("rr", "D"))
        for index, (condition, values) in enumerate(curves.items()):
            role, marker = looks[index % len(looks)]
            layers = [layer + 0.06 * (index - (len(curves) - 1) / 2) for layer in range(len(values))]
            for layer, band in zip(layers, bands.get(condition) or [], strict=False):
                whisker(axis, band[0], band[1], layer, role, vertical=True, width=1.0)
            look = {"marker": marker, "color": color(role), "markeredgecolor": color("card"), "zorder": 4}
            label = _CONDITIONS.get(condition, short(condition))
            axis.plot(layers, values, linewidth=1.4, markersize=6, label=label, **look)
        axis.axhline(0.5, color=color("muted"), linewidth=0.9, linestyle=(0, (3, 3)))
        axis.set_ylim(-0.03, 1.05)
        axis.set_xticks(range(max(map(len, curves.values()))))
        axis.set_xlabel("layer")
        axis.set_ylabel("AUROC  (0.5 = chance)")
        axis.grid(axis="y", linewidth=0.7)
        legend_beside(axis)
        return to_svg(figure, "auroc", "Lines per condition: separation of harmful and harmless requests, per layer")


def _limits(values: list[float]) -> tuple[float, float]:
    room = 0.06 * ((max(values) - min(values)) or 1.0)
    return min(values) - room, max(values) + room
