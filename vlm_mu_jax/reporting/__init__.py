"""The report: one self-contained HTML page, and the same numbers as results.json and results.csv beside it.

inputs/    what a report reads
verdict/   the sentences at the top, computed from the numbers of the tables
figures/   the figures, as inline SVG
exports/   answers and rates in the files of other programs
page/      the template, and one module for each kind of table
merged     results.json and results.csv
results_page  the tables of docs/results.md, over seeds
wording    numbers in words, one way for the whole page
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.outputs import write_text
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.reporting.inputs.options import ReportOptions

if TYPE_CHECKING:
    from vlm_mu_jax.reporting.inputs.content import Content

RESULTS, TABLE = "results.json", "results.csv"
ANSWERS = "answers"  # what the folder of a run holds, and no other


@dataclass(frozen=True)
class ReportFiles:
    """What a report wrote. `results` is None where the page lies in the folder of its only run, which has its own."""

    page: Path
    table: Path
    results: Path | None
    figures: tuple[Path, ...]
    exports: tuple[Path, ...] = ()

    @property
    def all(self) -> list[Path]:
        return [self.page, self.table, *filter(None, [self.results]), *self.figures, *self.exports]


@dataclass(frozen=True)
class Report:
    """A finished report. In a notebook it shows itself.

    Attributes:
      html: the page, which loads nothing from elsewhere.
      results: all runs as one results.json of schema 1.
      table: the same numbers as CSV.
      files: what was written; None when no `out` was given.
    """

    html: str
    results: dict[str, Any]
    table: str
    files: ReportFiles | None

    def _repr_html_(self) -> str:
        source = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{source}" style="width: 100%; height: 80vh; border: 0"></iframe>'


def report(
    runs: str | Path | Sequence[str | Path], out: str | Path | None = None, options: ReportOptions | None = None
) -> Report:
    """Makes the report of one or more evaluated models.

    Args:
      runs: run folders of `bin/eval`, or one. The order of models within a kind is kept.
      out: the HTML file to write; results.json and results.csv appear beside it. None writes nothing.
      options: the optional inputs; a part without input is left out of the page with a note.

    Returns:
      The page as text, the merged numbers, and the paths written.

    Raises:
      InputError: an input is missing or malformed, or results.json beside the page would overwrite one of several
        inputs.

    Example:
      vlm_mu_jax.report(["runs/eval_base", "runs/eval_sft"], "runs/report.html")
    """
    from vlm_mu_jax.reporting import merged  # matplotlib is slow to import
    from vlm_mu_jax.reporting.figures import canvas, catalogue
    from vlm_mu_jax.reporting.inputs import content
    from vlm_mu_jax.reporting.page import page

    options = options or ReportOptions()
    folders = [at_home(folder) for folder in ([runs] if isinstance(runs, str | Path) else runs)]
    inside = out is not None and _check_place(at_home(out), folders)
    collected = content.collect(folders, options)
    for name, folder in options.folders.items():
        _make_folder(name, folder)
    drawn = catalogue.draw(collected)
    made = Report(page.render(collected, drawn=drawn), merged.results(collected), merged.table(collected), None)
    pictures: list[Path] = []
    if options.figures:
        pictures = [path for drawing in drawn.all for path in canvas.save(drawing, options.figures)]
    exports = tuple(_exported(collected, options))
    return made if out is None else _write(made, at_home(out), inside, tuple(pictures), exports)


def _exported(collected: "Content", options: ReportOptions) -> Iterator[Path]:
    """Writes answers and rates for other programs. Yields the files."""
    from vlm_mu_jax.reporting.exports import inspect_log, lmms_eval, parquet

    for folder, export in (
        (options.inspect_log, inspect_log),
        (options.lmms_eval, lmms_eval),
        (options.parquet, parquet),
    ):
        if folder is not None:
            yield from export.write(collected, folder)


def _check_place(out: Path, folders: list[Path]) -> bool:
    """Whether the page lies in the folder of its only run. Raises InputError for the folder of any other run."""
    inside = out.resolve().parent in [folder.resolve() for folder in folders]
    if inside and len(folders) > 1:
        raise InputError(
            f"--out={out}: lies in the folder of one of the runs, whose {RESULTS} would be lost; choose another folder"
        )
    if not inside and (out.resolve().parent / ANSWERS).is_dir():
        raise InputError(
            f"--out={out}: lies in the folder of another run, whose {RESULTS} would be lost; choose another"
        )
    return inside


def _write(made: Report, out: Path, inside: bool, pictures: tuple[Path, ...], exports: tuple[Path, ...]) -> Report:
    """Writes the page and its numbers. The report of a single run may lie in the run's own folder, which keeps its
    results.json."""
    from vlm_mu_jax.reporting import merged

    files = ReportFiles(out, out.parent / TABLE, None if inside else out.parent / RESULTS, pictures, exports)
    write_text(files.page, made.html)
    write_text(files.table, made.table)
    if files.results:
        write_text(files.results, merged.to_json(made.results))
    return Report(made.html, made.results, made.table, files)


def _make_folder(option: str, folder: Path) -> None:
    """Before the work and not after it: a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--{option}={folder}: cannot be made ({error.strerror}); give another folder") from None
