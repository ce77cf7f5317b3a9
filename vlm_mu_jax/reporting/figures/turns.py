"""Attack success by turn of dialogues: as asked, and with one changed word in one question; as inline SVG."""

from vlm_mu_jax.reporting.figures.canvas import Drawing, legend, panels, percent_axis, style, tiled, to_svg
from vlm_mu_jax.reporting.figures.models import rate_line, short
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun

_COLUMNS = 4
GROUPS = {
    "as asked": "dialogues/asr_by_turn",
    "with a word of the search": "dialogues/asr_by_turn_after",
    "with a neutral word": "dialogues/asr_by_turn_null",
}
_LOOKS = (("ink", "D", (0, (1, 1.5))), ("asr", "o", "-"), ("null", "s", (0, (3, 2))))


def by_turn(run: ModelRun, group: str) -> dict[int, Rate]:
    """Turn -> rate, in the order of the turns."""
    return dict(sorted((int(turn), metric) for turn, metric in run.group(group).items() if turn.isdecimal()))


def asr_by_turn(runs: list[ModelRun]) -> Drawing | None:
    """ASR at turn 1, 2, ...; one panel per run. None where no run asked dialogues."""
    shown = [run for run in runs if by_turn(run, GROUPS["as asked"])]
    if not shown:
        return None
    columns, rows = tiled(len(shown), _COLUMNS)
    with style():
        figure, axes = panels(columns, 2.15 * rows + 0.4, rows=rows)
        most = max(max(by_turn(run, GROUPS["as asked"])) for run in shown)
        named = {}
        for axis, run in zip(axes, shown, strict=False):
            axis.set_title(short(run.label))
            for offset, (label, group), (role, *look) in zip((-0.06, 0, 0.06), GROUPS.items(), _LOOKS, strict=True):
                if curve := by_turn(run, group):
                    named[label] = rate_line(axis, curve, offset, role, *look)
            percent_axis(axis, "y")
            axis.set_xlim(0.6, most + 0.4)
            axis.set_xticks(range(1, most + 1))
            axis.set_xlabel("turn")
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        axes[0].set_ylabel("harmful answers")
        legend(figure, list(named.values()), list(named), 3)
        return to_svg(figure, "turns", "Lines per run: harmful answers over the turns of dialogues")
