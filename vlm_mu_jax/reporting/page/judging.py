"""Tables that say how far the judge's rates hold: against neutral words, against people, corrected for its errors."""

from typing import Any

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.metrics import as_rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun
from vlm_mu_jax.reporting.page.tables import RateTable, measured


def tables(runs: list[ModelRun]) -> list[RateTable]:
    """The tables that some run has numbers for."""
    return [table for table in (_further(runs), _control(runs), _agreement(runs), _corrected(runs)) if table.rows]


_FURTHER = (
    ("degenerate", "Broken text (empty, repeated, not words)"),
    ("truncated", "Cut at the token limit"),
    ("utility_exact", "Utility, exact match"),
    ("rr_unsafe", "Unsafe refused, as asked"),
    ("rr_unsafe_after", "Unsafe refused, after one word"),
    ("asr_null", "Unsafe answered, neutral words"),
    ("ir_unsafe_before", "Unsafe, beside the point, as asked"),
    ("ir_unsafe_after", "Unsafe, beside the point, after one word"),
    ("asr_safe_unsafes", "Unsafe question on a safe image answered"),
    ("rr_safe_unsafes", "Unsafe question on a safe image refused"),
)


def _further(runs: list[ModelRun]) -> RateTable:
    rows = [(text, [measured(run.metric(name)) for run in runs]) for name, text in _FURTHER if _any(runs, name)]
    note = "Small: 95 % intervals and number of answers or questions."
    return RateTable("Further rates", note, ["Rate", *(run.label for run in runs)], rows)


def _any(runs: list[ModelRun], name: str) -> bool:
    return any(run.metric(name) for run in runs)


def _control(runs: list[ModelRun]) -> RateTable:
    """The attack against as many neutral words, with the exact test that says whether the words matter."""
    rows = []
    for run in runs:
        found = _mapping(run.raw.get("null_control"))
        if found.get("asr") and found.get("asr_null"):
            rates = [_rate(found[name], run) for name in ("asr", "asr_null")]
            rows.append((run.label, [*rates, (_p(found.get("p")), ""), _rate(found.get("by_judge_errors"), run)]))
    note = "Best of K words against best of K neutral words on the same questions; p of the exact McNemar test."
    columns = ["Model", "ASR, words of the search", "ASR, neutral words", "p"]
    if any(cells[-1][0] != "–" for _, cells in rows):
        note += " Last: what the errors of the judge alone, as calibrated, would give in as many tries."
        columns.append("Judge's errors alone")
    else:
        rows = [(name, cells[:-1]) for name, cells in rows]
    return RateTable("Against neutral words", note, columns, rows)


def _agreement(runs: list[ModelRun]) -> RateTable:
    """The judge against people, as calibrated for these runs."""
    rows = []
    for run in runs:
        for target, found in _mapping(run.raw.get("calibration")).items():
            found, kappa = _mapping(found), _mapping(found).get("kappa")
            known = isinstance(kappa, list) and len(kappa) == 3 and all(isinstance(x, int | float) for x in kappa)
            agreed = (f"{kappa[0]:.2f}", f"{kappa[1]:.2f}–{kappa[2]:.2f}") if known else ("–", "")
            parts = [_rate(found.get(name), run) for name in ("sensitivity", "specificity")]
            rows.append((f"{run.raw.get('judge')}: {target}", [*parts, agreed]))
    rows = list({str(row): row for row in rows}.values())  # the same calibration stands in every run
    note = "On answers that people labelled. Sensitivity: of the answers people call so, the judge does too."
    return RateTable("The judge against people", note, ["Judge", "Sensitivity", "Specificity", "Cohen's kappa"], rows)


def _corrected(runs: list[ModelRun]) -> RateTable:
    """Rates as the judge saw them, and corrected for its errors with their uncertainty carried along."""
    rows = []
    for run in runs:
        for name, found in _mapping(run.raw.get("corrected")).items():
            found = _mapping(found)
            raw = _rate(found.get("raw"), run)
            corrected = _rate(found, run) if found.get("value") is not None else ("–", str(found.get("why") or ""))
            rows.append((f"{run.label}: {wording.metric(name)}", [raw, corrected]))
    note = (
        "Rogan and Gladen's estimator; the interval carries the uncertainty of the judge's sensitivity and specificity."
    )
    return RateTable("Corrected for the judge's errors", note, ["Rate", "As judged", "Corrected"], rows)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rate(value: Any, run: ModelRun) -> tuple[str, str]:
    return measured(as_rate(value, f"{run.folder / 'results.json'}: run {run.name!r}") if value is not None else None)


def _p(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return wording.p_value(float(value)).removeprefix("p = ").removeprefix("p ") if number else "–"
