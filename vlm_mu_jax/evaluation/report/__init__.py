"""The report: one self-contained HTML page, and the same numbers as results.json and CSV beside it.

from pathlib import Path
from vlm_mu_jax.evaluation import report
report.build([Path("runs/eval_base"), Path("runs/eval_sft")], Path("runs/report.html"))
"""

from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError

RESULTS, TABLE = "results.json", "results.csv"


def build(workdirs: list[Path], out: Path, **inputs: Any) -> list[Path]:
    """Writes the page to `out`, and results.json and results.csv beside it; returns the files written.

    `inputs` are the optional ones of `content.collect` (attack, audit, guard_diagnostics, training, export, sweep,
    relearning, show_text).
    Raises InputError for a bad input, and when results.json beside the page would overwrite one of several inputs.
    """
    from vlm_mu_jax.evaluation.report import content, merged, page  # matplotlib is slow to import

    out = Path(out)
    inside = out.resolve().parent in [Path(folder).resolve() for folder in workdirs]
    if inside and len(workdirs) > 1:
        raise InputError(
            f"--out={out}: lies in the folder of one of the runs, whose {RESULTS} would be lost; choose another folder"
        )
    collected = content.collect(workdirs, **inputs)
    files = {out: page.render(collected), out.parent / TABLE: merged.table(collected)}
    if not inside:  # the report of a single run may lie in the run's own folder, where its results.json already is
        files[out.parent / RESULTS] = merged.to_json(merged.results(collected))
    for path, text in files.items():
        merged.write(path, text)
    return list(files)
