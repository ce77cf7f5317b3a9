"""The report's numbers for other programs: one results.json (schema 1) and one CSV for all runs together."""

import csv
import io
import json
from typing import Any

from vlm_mu_jax.reporting.inputs.content import Content

_CSV_COLUMNS = ("run", "name", "kind", "seed", "metric", "value", "k", "n", "low", "high")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def results(content: Content) -> dict[str, Any]:
    """All runs as one results.json of schema 1. Provenance is kept per run, under the label that the report shows."""
    runs = [
        {**run.raw, "name": run.name, "kind": run.kind, "seed": run.seed, "label": run.label, "folder": run.folder.name}
        for run in content.runs
    ]
    return {
        "schema": 1,
        "runs": runs,
        "comparisons": content.comparisons,
        "provenance": {"runs": dict(content.provenance)},
    }


def table(content: Content) -> str:
    """One CSV line per run and metric. Fractions are in 0..1. low and high: the 95 % interval, empty if not known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for run in content.runs:
        head = [_plain_cell(text) for text in (run.label, run.name, run.kind)] + [run.seed]
        for name, metric in run.metrics.items():
            writer.writerow([*head, _plain_cell(name), metric.value, metric.k, metric.n, metric.low, metric.high])
    return stream.getvalue()


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _plain_cell(text: str) -> str:
    """A name that a spreadsheet would run as a formula gets a quote in front."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
