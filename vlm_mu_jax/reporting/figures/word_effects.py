"""The figures about the shortcut: data against model, word by word, and which words of a question decide a refusal."""

from typing import Any

import numpy as np

from vlm_mu_jax.reporting.figures.canvas import (
    Drawing,
    color,
    legend,
    panels,
    style,
    to_svg,
    whisker,
)
from vlm_mu_jax.reporting.figures.models import short

_PANELS = (
    ("change", "refusal margin of {model} with the word,\nminus as asked [nats]"),
    ("removed", "of this gone in {model} [nats]"),
)
_UNNAMED = ("the model", "the model\ntuned on rebalanced data")
_NAMED = 14  # words with their names; the others are dots
_LETTER, _GAP, _LONGEST = 0.08, 0.09, 16  # inches per letter and between words; words of a question that are shown
_METHODS = (("removal", "margin lost without the word"), ("gradient_x_input", "gradient × input"))


def attribution(audits: list[dict[str, Any]]) -> Drawing | None:
    """Every word: how strongly it goes with refusal in the data, against what it does to the model's refusal margin.

    A second panel shows how much of that rebalanced training takes away (see `attacks.audit.attribution`). Of several
    audits, the first that holds an attribution is drawn.
    """
    found = next((a["attribution"] for a in audits if a.get("attribution")), None)
    if not found or not _points(found, "change"):
        return None
    shown = [(name, label.format(model=_model(found, i))) for i, (name, label) in enumerate(_PANELS)]
    shown = [panel for panel in shown if _points(found, panel[0])]
    with style():
        figure, axes = panels(len(shown), 3.9, share_y=False)
        for axis, (name, label) in zip(axes, shown, strict=True):
            _scatter(axis, _points(found, name), name)
            axis.set_ylabel(label)
            axis.set_xlabel("goes with answering    ←    log odds in the data    →    with refusing")
            axis.set_title(_heading((found.get("correlations") or {}).get(name)), fontsize=8.5, fontweight="normal")
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, 2)
        return to_svg(
            figure, "attribution", "Scatter: log odds of each word in the data against its effect on the refusal margin"
        )


def _model(found: dict[str, Any], place: int) -> str:
    """The name of the attacked model, or of the second one."""
    names = found.get("models")
    name = names[place] if names and len(names) > place else None
    return short(name, 30) if name else _UNNAMED[place]


def _points(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    points = found.get("points") or []
    return [p for p in points if p.get("score") is not None and p.get(name) is not None]


def _scatter(axis: Any, points: list[dict[str, Any]], name: str) -> None:
    here = [p for p in points if p.get("seen") == "here"]
    elsewhere = [p for p in points if p.get("seen") != "here"]
    axis.axhline(0, color=color("line"), linewidth=0.9)
    axis.axvline(0, color=color("line"), linewidth=0.9)
    look = {"s": 11, "color": color("null"), "alpha": 0.55, "linewidths": 0, "zorder": 2}
    xs, ys = [p["score"] for p in elsewhere], [p[name] for p in elsewhere]
    axis.scatter(xs, ys, label="words seen elsewhere in a question", **look)
    for p in here:
        whisker(axis, p.get("low"), p.get("high"), p[name], "accent", width=1.0)
    look = {"s": 34, "color": color("accent"), "edgecolors": color("card"), "linewidths": 0.8, "zorder": 4}
    axis.scatter([p["score"] for p in here], [p[name] for p in here], label="words seen at this place", **look)
    named = _apart(sorted(here, key=lambda p: -abs(p["score"])), name)
    for i, p in enumerate(sorted(named, key=lambda p: p[name])):  # neighbours have their names on different sides
        side, away = ("left", 7) if i % 2 else ("right", -7)
        axis.annotate(
            short(p["word"], 14),
            (p["score"], p[name]),
            xytext=(away, 4),
            textcoords="offset points",
            fontsize=8,
            ha=side,
            zorder=5,
        )
    axis.margins(0.08, 0.12)
    axis.grid(linewidth=0.6)


def _apart(points: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The first _NAMED of these whose names do not lie on each other: more than a line apart, or far to the side."""
    width, height = (
        max((p[key] for p in points), default=0) - min((p[key] for p in points), default=0) for key in ("score", name)
    )
    kept: list[dict[str, Any]] = []
    for p in points:
        if all(abs(p["score"] - q["score"]) > width / 4 or abs(p[name] - q[name]) > height / 18 for q in kept):
            kept.append(p)
    return kept[:_NAMED]


def _heading(correlations: Any) -> str:
    """Both correlations of the words at the place, with their intervals; of the others where there are no such."""
    lines = []
    for key, text in (("here", "at this place"), ("elsewhere", "elsewhere")):
        if one := (correlations or {}).get(key):
            lines.append(f"{one['n']} words {text}: r {_interval(one['pearson'])},  ρ {_interval(one['spearman'])}")
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def saliency(found: dict[str, Any], most: int = 10) -> Drawing | None:
    """Questions word by word, coloured by what each word does to the refusal margin; one column per method.

    found: {"questions": [`attacks.saliency.Salient.to_dict`]}. Each question is scaled to its own largest effect.
    """
    questions = [q["words"][:_LONGEST] for q in found.get("questions") or [] if q.get("words")][:most]
    if not questions:
        return None
    width = max(sum(_width(word) + _GAP for word in words) for words in questions)
    with style():
        figure, axes = panels(2, 0.9 + 0.32 * len(questions), width=max(2.1 * width, 6.0), share_y=False)
        for axis, (method, title) in zip(axes, _METHODS, strict=True):
            axis.set_title(title)
            for y, words in enumerate(questions):
                _strip(axis, y, words, method)
            axis.set_xlim(0, width)
            axis.set_ylim(len(questions) - 0.45, -0.55)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines["bottom"].set_visible(False)
        figure.supxlabel("blue: the word speaks for refusing      orange: for answering", fontsize=8.5)
        return to_svg(figure, "saliency", "Questions with their words coloured by their effect on the refusal margin")


def _width(word: dict[str, Any]) -> float:
    return _LETTER * (len(str(word["word"])) + 1)


def _strip(axis: Any, y: int, words: list[dict[str, Any]], method: str) -> None:
    effects = np.array([float(word[method]) for word in words])
    largest = max(float(np.abs(effects).max()), 1e-12)
    left = 0.0
    for word, effect in zip(words, effects, strict=True):
        width, strength = _width(word), abs(effect) / largest
        role = "rr" if effect > 0 else "asr"
        axis.barh(y, width, left=left, height=0.76, color=color(role), alpha=0.9 * strength, linewidth=0)
        ink = color("card") if strength > 0.6 else color("ink")
        axis.text(left + width / 2, y, str(word["word"]), ha="center", va="center", fontsize=8, color=ink)
        left += width + _GAP
