"""The figures about the evidence: word audit, one-word search, hidden states; each as inline SVG."""

from typing import Any

from vlm_mu_jax.reporting.canvas import Drawing, color, panels, percent_axis, style, to_svg, whisker
from vlm_mu_jax.reporting.content import Metric, as_metric
from vlm_mu_jax.reporting.figures import short

_CONDITIONS = {
    "text": "text only",
    "text_only": "text only",
    "blank": "blank image",
    "blank_image": "blank image",
    "own": "own image",
    "own_image": "own image",
}
_WORDS_SHOWN = 8  # on each side of a chart; the tables below it hold more


def number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def audit_rows(audit: dict[str, Any], position: str = "first") -> list[dict[str, Any]]:
    """The usable word rows of one position, from the word that goes most with refusal to the one that goes least."""
    rows = [row for row in audit.get("rows") or [] if isinstance(row, dict) and row.get("position") == position]
    rows = [row for row in rows if isinstance(row.get("word"), str) and number(row, "log_odds") is not None]
    return sorted(rows, key=lambda row: -row["log_odds"])


def word_audit(audit: dict[str, Any]) -> Drawing | None:
    """Opening words by how strongly they go with refusal in the data: log odds ratio with its 95 % interval."""
    rows = audit_rows(audit)
    if not rows:
        return None
    if len(rows) > 2 * _WORDS_SHOWN:
        rows = rows[:_WORDS_SHOWN] + rows[-_WORDS_SHOWN:]
    with style():
        figure, (axis,) = panels(1, 0.85 + 0.25 * len(rows))
        axis.axvline(0, color=color("line"), linewidth=1.2)
        for y, row in enumerate(rows):
            low, high = number(row, "low"), number(row, "high")
            sure = low is not None and high is not None and (low > 0 or high < 0)
            role = "null" if not sure else "rr" if row["log_odds"] > 0 else "asr"
            whisker(axis, low, high, y, role, width=1.6)
            axis.plot(
                row["log_odds"], y, "o", color=color(role), markersize=6.5, markeredgecolor=color("card"), zorder=4
            )
        axis.set_yticks(range(len(rows)), [f"“{short(row['word'], 18)}”" for row in rows])
        axis.tick_params(axis="y", labelcolor=color("ink"))
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("goes with answering      ←      log odds ratio      →      goes with refusing")
        axis.grid(axis="x", linewidth=0.7)
        return to_svg(
            figure, "audit", "Opening words of the training data by their log odds of refusal, with intervals"
        )


def search_rows(attack: dict[str, Any], name: str) -> list[tuple[str, float | None, Metric | None, dict[str, Any]]]:
    """Rows of one list of attack.json as (word, score, success or refusal rate, raw row), in the search's order."""
    rows = []
    for row in attack.get(name) or []:
        if not isinstance(row, dict) or not isinstance(row.get("word"), str):
            continue
        rate = next((row[key] for key in ("asr", "rr", "rate") if row.get(key) is not None), None)
        if isinstance(rate, int | float) and not isinstance(rate, bool):
            rate = {"value": rate, **{key: row.get(key) for key in ("n", "low", "high")}}
        rows.append(
            (row["word"], number(row, "score"), as_metric(rate, "attack.json") if isinstance(rate, dict) else None, row)
        )
    return rows


def shortlist(attack: dict[str, Any], goal: str) -> list[tuple[str, float | None, Metric | None, dict[str, Any]]]:
    """All words that were tried with real answers on the search questions, in the form of `search_rows`."""
    part = attack.get("search")
    part = part.get(goal) if isinstance(part, dict) else None
    rows = (part.get("shortlist") or []) if isinstance(part, dict) else []
    rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("word"), str)]
    return [
        (row["word"], number(row, "score"), as_metric(row.get("success_on_search"), "attack.json"), row) for row in rows
    ]


def one_word_search(attack: dict[str, Any]) -> Drawing | None:
    """The best words of the search with what they achieve, beside neutral control words."""
    lists = (("jailbreak", "Unsafe requests answered", "asr"), ("over_refuse", "Harmless questions refused", "rr"))
    null = search_rows(attack, "null")
    chosen = []
    for name, title, role in lists:
        rows = [(word, rate, role) for word, _, rate, _ in search_rows(attack, name) if rate][:_WORDS_SHOWN]
        control = [
            (word, rate, "null") for word, _, rate, raw in null if rate and raw.get("goal", "jailbreak") == name
        ][:4]
        if rows:
            chosen.append((title, rows + control))
    if not chosen:
        return None
    with style():
        most = max(len(rows) for _, rows in chosen)
        figure, axes = panels(len(chosen), 0.8 + 0.27 * most, share_y=False)
        for axis, (title, rows) in zip(axes, chosen, strict=True):
            axis.set_title(title)
            for y, (_, rate, role) in enumerate(rows):
                axis.barh(y, max(rate.value, 0.006), height=0.6, color=color(role), linewidth=0)
                whisker(axis, rate.low, rate.high, y, "ink", width=0.9)
                axis.text(
                    max(rate.value, rate.high or 0) + 0.025, y, f"{100 * rate.value:.0f} %", va="center", fontsize=8
                )
            percent_axis(axis, room=0.14)
            names = [f"“{short(word, 16)}”" + (" (neutral)" if role == "null" else "") for word, _, role in rows]
            axis.set_yticks(range(len(rows)), names)
            axis.tick_params(axis="y", labelcolor=color("ink"))
            axis.set_ylim(most - 0.4, -0.6)
        return to_svg(figure, "search", "Bars: the best opening words of the search, and neutral control words")


def pca_points(guard: dict[str, Any]) -> list[dict[str, Any]]:
    pca = guard.get("pca")
    points = pca.get("points") if isinstance(pca, dict) else None
    return [
        p for p in points or [] if isinstance(p, dict) and number(p, "x") is not None and number(p, "y") is not None
    ]


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
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return to_svg(
            figure, "pca", "Scatter per condition: hidden states of harmful and harmless requests in two components"
        )


def separation(guard: dict[str, Any]) -> Drawing | None:
    """How well the text-only safety direction tells harmful from harmless, per layer and input condition (AUROC)."""
    curves = guard.get("auroc")
    curves = {k: v for k, v in curves.items() if isinstance(v, list) and v} if isinstance(curves, dict) else {}
    if not curves:
        return None
    bands = guard.get("auroc_interval") if isinstance(guard.get("auroc_interval"), dict) else {}
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
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9)
        return to_svg(figure, "auroc", "Lines per condition: separation of harmful and harmless requests, per layer")


def _limits(values: list[float]) -> tuple[float, float]:
    room = 0.06 * ((max(values) - min(values)) or 1.0)
    return min(values) - room, max(values) + room
