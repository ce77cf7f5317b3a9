"""The word audit and the one-word search, each as inline SVG."""

from typing import Any

from vlm_mu_jax.reporting.figures.canvas import Drawing, color, panels, percent_axis, style, to_svg, whisker
from vlm_mu_jax.reporting.figures.models import short
from vlm_mu_jax.reporting.inputs.word_rows import audit_rows, search_rows

_WORDS_SHOWN = 8  # on each side of a chart; the tables below it hold more


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
            low, high = row.get("low"), row.get("high")
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
