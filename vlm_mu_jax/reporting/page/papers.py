"""The papers' tables: what was measured here beside what was published, in columns told apart."""

from dataclasses import dataclass
from itertools import zip_longest

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs import published
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import BASE, GUARD, SFT, ModelRun


@dataclass(frozen=True)
class _Layout:
    """A published table and what it is compared with: (published column, metric of a run or None), kinds of rows."""

    file: str
    title: str
    columns: tuple[tuple[str, str | None], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # kind of run, the published rows that stand beside it


@dataclass(frozen=True)
class Line:
    """One line: a run with its metrics, or none, and a published row with its cells, or none."""

    run: ModelRun | None
    measured: tuple[Rate | None, ...]
    row: str
    cells: tuple[published.PublishedNumber | None, ...]


@dataclass(frozen=True)
class Paper:
    """A table ready to show: `columns` head the published half, `measured` the half of this report.

    `measured` names the columns that some run has a number for, each with its place in `Line.measured`.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    measured: tuple[tuple[int, str], ...]
    lines: list[Line]
    sources: list[str]
    trusts: list[str]

    @property
    def sizes(self) -> str:
        """On how many questions the measured half stands."""
        return wording.sizes(metric for line in self.lines for metric in line.measured)


_SFT_ROWS = (SFT, ("Mixed-SFT", "Posthoc-SFT"))
_UNLEARNED = (("npo", ("NPO",)), ("rmu", ("RMU",)))
_LAYOUTS = (
    _Layout(
        "safety_mirage_table1",
        "The one-word attack (Safety Mirage, Table 1: LLaVA-1.5-7B on VLGuard, full fine-tuning, the part found)",
        (
            ("ASR before", "asr_before"),
            ("ASR after one-word (3 shots)", "asr_after"),
            ("RR before", "rr_before"),
            ("RR after one-word (1 shot)", "rr_after"),
            ("VQAv2 accuracy", "utility"),
        ),
        ((BASE, ("LLaVA-1.5-7B",)), _SFT_ROWS, *_UNLEARNED),
    ),
    _Layout(
        "safety_mirage_table2",
        "What safety consists of, after the attack (Safety Mirage, Table 2)",
        (("ASR after", "asr_after"), ("IR after", "ir_unsafe_after"), ("RR after", "rr_unsafe_after")),
        (_SFT_ROWS, *_UNLEARNED),
    ),
    _Layout(
        "safety_mirage_table3",
        "One-word attack beside a GCG suffix (Safety Mirage, Table 3)",
        (("ASR before", "asr_before"), ("ASR after one-word", "asr_after"), ("ASR after GCG suffix", None)),
        (_SFT_ROWS, *_UNLEARNED),
    ),
    _Layout(
        "vlm_guard_blank_image",
        "Text only against a blank image (VLM-Guard)",
        (("ASR text only", "gap/text_only/asr"), ("ASR with blank image", "gap/blank_image/asr")),
        ((BASE, ("LLaVA-1.5-7B",)), (GUARD, ("LLaVA-1.5-7B + VLM-Guard",))),
    ),
)
# What is measured here in a column that the paper heads with its own benchmark and number of shots.
_OWN_HEADING = {
    "VQAv2 accuracy": "Utility",
    "ASR after one-word (3 shots)": "ASR after one-word",
    "RR after one-word (1 shot)": "RR after one-word",
}


def papers(runs: list[ModelRun], tables: dict[str, published.PublishedTable]) -> dict[str, Paper]:
    """Every published table that is known here, by file stem, with the runs of the same kinds beside its rows.

    Rows pair by kind only (original, safety fine-tuned, NPO, RMU, guarded): other models, other data, other judges.
    """
    return {layout.file: _paper(layout, runs, tables[layout.file]) for layout in _LAYOUTS if layout.file in tables}


def _paper(layout: _Layout, runs: list[ModelRun], table: published.PublishedTable) -> Paper:
    names = [column for column, _ in layout.columns]
    lines = []
    for kind, rows in layout.rows:
        mine = [run for run in runs if run.kind == kind]
        lines += [_line(layout, table, run, row) for run, row in zip_longest(mine, rows)]
    filled = [number for number in range(len(names)) if any(line.measured[number] for line in lines)]
    measured = tuple((number, _OWN_HEADING.get(names[number], names[number])) for number in filled)
    return Paper(layout.file, layout.title, tuple(names), measured, lines, table.sources, table.trusts)


def _line(layout: _Layout, table: published.PublishedTable, run: ModelRun | None, row: str | None) -> Line:
    cells = table.cells.get(row, {}) if row else {}
    return Line(
        run,
        tuple(run.metric(metric) if run and metric else None for _, metric in layout.columns),
        row or "",
        tuple(cells.get(name) for name, _ in layout.columns),
    )
