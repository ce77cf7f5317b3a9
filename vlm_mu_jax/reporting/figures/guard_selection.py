"""The scores of a guard's selection as a picture: a row per operator, layers, gate and scope, a column per strength."""

import dataclasses
import io
from typing import Any

import numpy as np

from vlm_mu_jax.steering.selection import OFF, GuardChoice

_PANELS = (("refusal_harmful", "harmful requests refused"), ("over_refusal", "harmless requests refused"))
_FRAME_X, _FRAME_Y = np.array([-0.5, 0.5, 0.5, -0.5, -0.5]), np.array([-0.5, -0.5, 0.5, 0.5, -0.5])


def heat_map(selection: GuardChoice) -> bytes:
    """PNG of a selection's candidates.

    Both panels show shares in 0..1, each that of the worst condition. The chosen candidate has a frame, those outside
    the bounds have a cross, and cells that were not tried stay empty.
    """
    from matplotlib.figure import Figure

    tried = [row for row in selection.rows if row["operator"] != OFF.operator]
    names = list(dict.fromkeys(map(_name, tried))) or [OFF.operator]
    strengths = sorted({row["strength"] for row in tried}) or [0.0]
    best = dataclasses.asdict(selection.best)
    figure = Figure(figsize=(4.6 + 1.1 * len(strengths), 1.6 + 0.28 * len(names)), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, 2, sharey=True, squeeze=False)[0], _PANELS, strict=True):
        cells = np.full((len(names), len(strengths)), np.nan)
        for row in tried:
            y, x = names.index(_name(row)), strengths.index(row["strength"])
            cells[y, x] = row[key]
            _write_cell(axis, x, y, row[key], row["feasible"])
            if _name(row) == _name(best) and row["strength"] == best["strength"]:
                axis.plot(x + _FRAME_X, y + _FRAME_Y, color="red", linewidth=2, clip_on=False)
        axis.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths], fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_xlabel("strength", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _write_cell(axis: Any, x: int, y: int, share: float, feasible: bool) -> None:
    text = f"{share:.2f}" + ("" if feasible else " ×")
    axis.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if share < 0.5 else "black")


def _name(row: dict[str, Any]) -> str:
    layers = ",".join(map(str, row["layers"]))
    rank = f" rank {row['rank']}" if row.get("rank") else ""
    return f"{row['operator']}{rank} @ {layers}  {row['gate']}  {row['scope']}"
