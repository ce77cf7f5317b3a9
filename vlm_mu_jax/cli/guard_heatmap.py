"""The scores of a selection as a picture: a row per operator, layers, gate and scope, a column per strength."""

import io

import numpy as np

_PANELS = (("refusal_harmful", "harmful requests refused"), ("over_refusal", "harmless requests refused"))


def heat_map(rows: list[dict], best: dict) -> bytes:
    """PNG of a selection's candidates (`Selection.rows`); the chosen one has a frame, those outside the bounds a cross.

    Both panels show shares in 0..1, each that of the worse condition; cells that were not tried stay empty.
    """
    from matplotlib.figure import Figure

    tried = [row for row in rows if row["operator"] != "off"]
    names = list(dict.fromkeys(map(_name, tried))) or ["off"]
    strengths = sorted({row["strength"] for row in tried}) or [0.0]
    figure = Figure(figsize=(4.6 + 1.1 * len(strengths), 1.6 + 0.28 * len(names)), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, 2, sharey=True, squeeze=False)[0], _PANELS, strict=True):
        cells = np.full((len(names), len(strengths)), np.nan)
        for row in tried:
            y, x = names.index(_name(row)), strengths.index(row["strength"])
            cells[y, x] = row[key]
            mark = "" if row["feasible"] else " ×"
            axis.text(
                x,
                y,
                f"{row[key]:.2f}{mark}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if row[key] < 0.5 else "black",
            )
            if _name(row) == _name(best) and row["strength"] == best["strength"]:
                axis.plot(
                    [x - 0.5, x + 0.5, x + 0.5, x - 0.5, x - 0.5],
                    [y - 0.5, y - 0.5, y + 0.5, y + 0.5, y - 0.5],
                    color="red",
                    linewidth=2,
                    clip_on=False,
                )
        axis.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths], fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_xlabel("strength", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _name(row: dict) -> str:
    layers = ",".join(map(str, row["layers"]))
    rank = f" rank {row['rank']}" if row.get("rank") else ""
    return f"{row['operator']}{rank} @ {layers}  {row['gate']}  {row['scope']}"
