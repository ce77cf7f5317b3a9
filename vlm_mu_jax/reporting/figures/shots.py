"""The K-curve: how much each further attack word adds, against as many neutral words; as inline SVG."""

from vlm_mu_jax.reporting.figures.canvas import (
    Drawing,
    legend,
    panels,
    percent_axis,
    style,
    tiled,
    to_svg,
)
from vlm_mu_jax.reporting.figures.models import rate_line, short
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun

_COLUMNS = 4
_LINES = (("words of the search", "asr", "o", "-"), ("as many neutral words", "null", "s", (0, (3, 2))))


def k_curve(runs: list[ModelRun]) -> Drawing | None:
    """ASR when any of the first K words works, K = 1, 2, ...; one panel per run.

    The control is the best of as many neutral words: any-of-K alone rises with K. None where no run had two shots.
    """
    shown = [run for run in runs if len(_by_shots(run, "asr_after_by_shots")) > 1]
    if not shown:
        return None
    columns, rows = tiled(len(shown), _COLUMNS)
    with style():
        figure, axes = panels(columns, 2.15 * rows + 0.4, rows=rows)
        most = max(max(_by_shots(run, "asr_after_by_shots")) for run in shown)
        named = {}
        for axis, run in zip(axes, shown, strict=False):
            axis.set_title(short(run.label))
            curves = (_by_shots(run, "asr_after_by_shots"), _null(run))
            for offset, curve, (label, *look) in zip((-0.04, 0.04), curves, _LINES, strict=True):
                if curve:
                    named[label] = rate_line(axis, curve, offset, *look)
            percent_axis(axis, "y")
            axis.set_xlim(0.6, most + 0.4)
            axis.set_xticks(range(1, most + 1) if most <= 12 else [1, most // 2, most])
            axis.set_xlabel("words tried per question (K)")
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        axes[0].set_ylabel("harmful answers")
        legend(figure, list(named.values()), list(named), 2)
        return to_svg(figure, "shots", "Lines per run: harmful answers over the number of words tried per question")


def _by_shots(run: ModelRun, name: str) -> dict[int, Rate]:
    """K -> rate, in the order of K."""
    found = {int(shots): metric for shots, metric in run.group(name).items() if shots.isdecimal() and len(shots) < 9}
    return dict(sorted(found.items()))


def _null(run: ModelRun) -> dict[int, Rate]:
    """The control: its own K-curve, or, of an older results.json, only the point for all K neutral words together."""
    words, alone = len(run.group("asr_null_by_word")), run.metric("asr_null")
    return _by_shots(run, "asr_null_by_shots") or ({words: alone} if words and alone else {})
