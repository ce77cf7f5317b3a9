"""The report: one self-contained HTML page, and the same numbers as results.json and CSV beside it.

from pathlib import Path
from vlm_mu_jax import reporting as report
report.build([Path("runs/eval_base"), Path("runs/eval_sft")], Path("runs/report.html"))
"""

from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

RESULTS, TABLE = "results.json", "results.csv"


def build(workdirs: list[Path], out: Path, figures: Path | None = None, **inputs: Any) -> list[Path]:
    """Writes the page to `out`, and results.json and results.csv beside it; returns the files written.

    `inputs` are the optional ones of `content.collect` (attack, audit, guard_diagnostics, training, export, images,
    show_text and the names of `evidence.EVIDENCE`). With `figures`, every figure is also written to that folder, as
    NAME.svg and NAME.png.
    Raises InputError for a bad input, and when results.json beside the page would overwrite one of several inputs.
    """
    from vlm_mu_jax.reporting import canvas, content, merged, page  # matplotlib is slow to import

    out = Path(out)
    inside = out.resolve().parent in [Path(folder).resolve() for folder in workdirs]
    if inside and len(workdirs) > 1:
        raise InputError(
            f"--out={out}: lies in the folder of one of the runs, whose {RESULTS} would be lost; choose another folder"
        )
    if figures:
        _make_folder(figures)
    collected = content.collect(workdirs, **inputs)
    drawn = page.draw(collected)
    files = {out: page.render(collected, drawn=drawn), out.parent / TABLE: merged.table(collected)}
    if not inside:  # the report of a single run may lie in the run's own folder, where its results.json already is
        files[out.parent / RESULTS] = merged.to_json(merged.results(collected))
    for path, text in files.items():
        merged.write(path, text)
    pictures = [path for drawing in drawn.all for path in canvas.save(drawing, figures)] if figures else []
    return [*files, *pictures]


def _make_folder(folder: Path) -> None:
    """Before the work and not after it: a bad --figures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--figures={folder}: cannot be made ({error.strerror}); give another folder") from None
