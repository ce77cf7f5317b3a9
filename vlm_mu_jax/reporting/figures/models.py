"""The figures about the runs: main bars, composition, frontier, opening words, alignment gap; each as inline SVG."""

from collections.abc import Sequence

from vlm_mu_jax.reporting import wording
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
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import BASE, GUARD, ModelRun

# (title, role of colour, metric before, metric after, what is better)
_MAIN = (
    ("Harmful answers (ASR)", "asr", "asr_before", "asr_after", "lower is better"),
    ("Harmless refused (RR)", "rr", "rr_before", "rr_after", "lower is better"),
    ("Harmless answered right", "right", "harmless_right_before", "harmless_right_after", "higher is better"),
    ("Utility", "utility", None, "utility", "higher is better"),
)
_GAP_CONDITIONS = (("text_only", "text only"), ("blank_image", "blank image"), ("own_image", "own image"))
_GAP_METRICS = (
    ("asr", "Harmful answers", "asr"),
    ("rr", "Hazardous requests refused", "rr"),
    ("harmless_right", "Harmless answered right", "right"),
)
_MARKERS = "osD^vPX*<>"


def short(label: str, limit: int = 26) -> str:
    """A label that fits beside an axis."""
    return label if len(label) <= limit else label[: limit - 1] + "…"


def main_bars(runs: list[ModelRun]) -> Drawing | None:
    """Before (pale) and after (solid) the attack, per run, one panel per metric, with 95 % intervals."""
    chosen = [panel for panel in _MAIN if any(run.metric(panel[3]) for run in runs)]
    if not chosen:
        return None
    with style():
        figure, axes = panels(len(chosen), 0.75 + 0.46 * len(runs))
        for axis, (title, role, before, after, better) in zip(axes, chosen, strict=True):
            axis.set_title(f"{title}\n", fontsize=9.5)
            place = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
            axis.annotate(better, (0, 1), fontsize=8, color=color("muted"), **place)
            for row, run in enumerate(runs):
                if before:
                    _bar(axis, row - 0.19, run.metric(before), role, 0.35, 0.34)
                _bar(axis, row + (0.19 if before else 0), run.metric(after), role, 1.0, 0.34)
            percent_axis(axis, room=0.22)
            axis.set_yticks(range(len(runs)), [short(run.label) for run in runs])
            axis.tick_params(axis="y", labelcolor=color("ink"))
        axes[0].set_ylim(len(runs) - 0.45, -0.55)
        return to_svg(
            figure,
            "bars",
            "Bars per run: harmful answers, refusals of harmless questions, harmless answers right, utility",
        )


def _bar(axis, y: float, metric: Rate | None, role: str, alpha: float, height: float) -> None:
    """One horizontal bar with its interval and value; a hairline at zero so that 0 % is seen as measured."""
    if metric is None:
        return
    axis.barh(y, max(metric.value, 0.006), height=height, color=color(role), alpha=alpha, linewidth=0)
    whisker(axis, metric.low, metric.high, y, "ink", width=0.9)
    end = max(metric.value, metric.high or 0)
    axis.text(
        end + 0.03, y, wording.rate(metric), va="center", fontsize=8, color=color("ink" if alpha == 1 else "muted")
    )


def composition(runs: list[ModelRun]) -> Drawing | None:
    """What happens to unsafe requests after the attack: harmful, beside the point, refused; adds up to 100 %."""
    rows = [(run, run.metric("asr_after"), run.metric("ir_unsafe_after")) for run in runs]
    # One unit each (any of K shots), so the three rates add up; a file where they cannot is not drawn.
    rows = [(run, asr.value, ir.value) for run, asr, ir in rows if asr and ir and asr.value + ir.value <= 1.001]
    if not rows:
        return None
    with style():
        figure, (axis,) = panels(1, 0.75 + 0.3 * len(rows))
        for y, (_, asr, ir) in enumerate(rows):
            left = 0.0
            for value, role in ((asr, "asr"), (ir, "ir"), (max(1 - asr - ir, 0), "rr")):
                axis.barh(y, value, left=left, height=0.62, color=color(role), edgecolor=color("card"), linewidth=1.5)
                if value >= 0.07:
                    axis.text(
                        left + value / 2,
                        y,
                        wording.percent(value),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=color("card"),
                    )
                left += value
        percent_axis(axis)
        axis.set_xlim(0, 1)
        axis.set_yticks(range(len(rows)), [short(run.label) for run, *_ in rows])
        axis.tick_params(axis="y", labelcolor=color("ink"))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        _legend(figure, (("asr", "harmful answer"), ("ir", "beside the point or broken"), ("rr", "refusal")))
        return to_svg(figure, "composition", "Stacked bars per run: what happens to unsafe requests after the attack")


def _legend(figure, entries) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=color(role)) for role, _ in entries]
    look = {"handlelength": 1, "handleheight": 1, "columnspacing": 1.6}
    legend(figure, handles, [text for _, text in entries], len(entries), **look)


def frontier(runs: list[ModelRun]) -> Drawing | None:
    """Safety against usefulness: ASR after the attack over harmless questions answered right after it."""
    points = [(run, run.metric("harmless_right_after"), run.metric("asr_after")) for run in runs]
    points = [(run, right, asr) for run, right, asr in points if right and asr]
    if not points:
        return None
    with style():
        figure, (axis,) = panels(1, 4.1, share_y=False)
        axis.axvspan(0.85, 1.03, ymin=0.03 / 1.06, ymax=0.18 / 1.06, color=color("right"), alpha=0.14, linewidth=0)
        axis.text(0.845, 0.02, "safe and useful", fontsize=8, color=color("right"), ha="right", va="bottom")
        markers, shown = _markers([run for run, *_ in points]), set()
        for index, (run, right, asr) in enumerate(points):
            role = _kind_role(run)
            whisker(axis, right.low, right.high, asr.value, role, width=0.9)
            whisker(axis, asr.low, asr.high, right.value, role, vertical=True, width=0.9)
            label = None if run.name in shown else short(run.name, 40)  # seeds share mark and entry
            shown.add(run.name)
            over = sum(_near(other, (right, asr)) for _, *other in points[index + 1 :])  # these are drawn on top
            axis.plot(right.value, asr.value, markers[run.name], markersize=8 + 5 * over, label=label, **edged(role))
        percent_axis(axis, "x")
        percent_axis(axis, "y")
        axis.set_xlabel("harmless questions answered right, after the attack  (right is better)")
        axis.set_ylabel("harmful answers after the attack  (lower is better)")
        for handle in legend_beside(axis, labelcolor=color("ink")).legend_handles:
            handle.set_markersize(8)
        return to_svg(
            figure, "frontier", "Scatter: harmful answers after the attack against harmless questions answered right"
        )


def _near(some: Sequence[Rate], other: Sequence[Rate]) -> bool:
    """Whether two marks would hide each other."""
    return all(abs(a.value - b.value) < 0.02 for a, b in zip(some, other, strict=True))


def _markers(runs: list[ModelRun]) -> dict[str, str]:
    """One mark per name of run, the same for all its seeds."""
    names = dict.fromkeys(run.name for run in runs)
    return {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(names)}


def _kind_role(run: ModelRun) -> str:
    return {"base": "muted", "sft": "rr", "guard": "utility"}.get(run.kind, "accent")


def openings(runs: list[ModelRun]) -> Drawing | None:
    """Per opening word: harmful answers and harmless answers right, one panel per run."""
    shown = [run for run in runs if run.group("asr_by_opening") or run.group("harmless_right_by_opening")]
    names = list(
        dict.fromkeys(w for run in shown for g in ("asr_by_opening", "harmless_right_by_opening") for w in run.group(g))
    )
    if not names:
        return None
    columns, rows = tiled(len(shown), 4)
    with style():
        figure, axes = panels(columns, rows * (0.62 + 0.34 * len(names)) + 0.35, rows=rows)
        for axis, run in zip(axes, shown, strict=False):
            axis.set_title(short(run.label))
            for group, role, offset, marker in (
                ("asr_by_opening", "asr", -0.14, "o"),
                ("harmless_right_by_opening", "right", 0.14, "D"),
            ):
                _dots(axis, names, run.group(group), role, offset, marker)
            percent_axis(axis, steps=2)
            axis.set_yticks(range(len(names)), [f"“{short(name, 14)}”" for name in names])
            axis.tick_params(axis="y", labelcolor=color("ink"))
            axis.set_ylim(len(names) - 0.5, -0.5)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, 2)
        return to_svg(figure, "openings", "Dots per opening word: harmful answers, and harmless answers right")


def _dots(axis, names: list[str], metrics: dict[str, Rate], role: str, offset: float, marker: str) -> None:
    label = {"asr": "harmful answers to unsafe requests", "right": "harmless questions answered right"}[role]
    axis.plot([], [], marker, color=color(role), label=label)
    for row, name in enumerate(names):
        if metric := metrics.get(name):
            whisker(axis, metric.low, metric.high, row + offset, role, width=1.5)
            axis.plot(
                metric.value,
                row + offset,
                marker,
                color=color(role),
                markersize=6,
                markeredgecolor=color("card"),
                zorder=4,
            )


def alignment_gap(runs: list[ModelRun]) -> Drawing | None:
    """The same requests without image, with a blank image and with their own image; one line per run."""
    measured = [run for run in runs if run.group("gap")]
    shown = [run for run in measured if run.kind in (BASE, GUARD)] or measured  # the gap is about these two
    chosen = [
        panel
        for panel in _GAP_METRICS
        if any(run.metric(f"gap/{c}/{panel[0]}") for run in shown for c, _ in _GAP_CONDITIONS)
    ]
    if not chosen:
        return None
    with style():
        figure, axes = panels(len(chosen), 3.0)
        markers, first = _markers(shown), {run.name: run for run in reversed(shown)}
        for axis, (key, title, _) in zip(axes, chosen, strict=True):
            axis.set_title(title)
            for index, run in enumerate(shown):
                label = short(run.name, 40) if first[run.name] is run else None
                _gap_line(axis, run, key, (index - (len(shown) - 1) / 2) * 0.09, markers[run.name], label)
            axis.set_xticks(range(len(_GAP_CONDITIONS)), [name for _, name in _GAP_CONDITIONS])
            axis.tick_params(axis="x", labelcolor=color("ink"))
            axis.set_xlim(-0.35, len(_GAP_CONDITIONS) - 0.65)
            percent_axis(axis, "y")
        handles, labels = axes[0].get_legend_handles_labels()
        legend(figure, handles, labels, min(len(shown), 4))
        return to_svg(figure, "gap", "Lines per run: text only, blank image and own image")


def _gap_line(axis, run: ModelRun, key: str, offset: float, marker: str, label: str | None) -> None:
    role = _kind_role(run)
    points = [(x + offset, run.metric(f"gap/{condition}/{key}")) for x, (condition, _) in enumerate(_GAP_CONDITIONS)]
    points = [(x, metric) for x, metric in points if metric]
    for x, metric in points:
        whisker(axis, metric.low, metric.high, x, role, vertical=True, width=1.0)
    line = "-" if run.kind == "guard" else (0, (4, 2))
    xs, ys = [x for x, _ in points], [metric.value for _, metric in points]
    axis.plot(xs, ys, linestyle=line, marker=marker, linewidth=1.5, markersize=6.5, label=label, **edged(role))


def edged(role: str) -> dict:
    """A mark of this role with a thin edge in the card's colour, so that overlapping marks stay apart."""
    return {"color": color(role), "markeredgecolor": color("card"), "markeredgewidth": 1.2, "zorder": 4}


def rate_line(axis, curve: dict[int, Rate], offset: float, role: str, marker: str, line):
    """Rates over counted steps, such as shots or turns, with their intervals. Returns the line, for a legend."""
    for step, metric in curve.items():
        whisker(axis, metric.low, metric.high, step + offset, role, vertical=True, width=1.0)
    xs, ys = [step + offset for step in curve], [metric.value for metric in curve.values()]
    return axis.plot(xs, ys, marker=marker, linestyle=line, linewidth=1.4, markersize=6, **edged(role))[0]
