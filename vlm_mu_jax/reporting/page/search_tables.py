"""The tables and notes about words: the audit of the training data, the one-word search, searches made again."""

from typing import Any

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.metrics import as_rate
from vlm_mu_jax.reporting.inputs.word_rows import audit_rows, search_rows, shortlist


def audit_table(audit: dict[str, Any] | None) -> list[dict[str, Any]]:
    return audit_rows(audit)[:200] if audit else []


def probe(audit: dict[str, Any]) -> dict[str, Any]:
    """How well the first word alone predicts the outcome, against the larger class: for the note below the chart."""
    found = audit.get("probe") or {}
    majority = found.get("majority")
    if majority is None or found.get("accuracy") is None:
        return {"probe": None, "majority": None}
    probe = as_rate({**found, "value": found["accuracy"]}, "audit: probe")
    return {"probe": probe, "majority": wording.percent(majority)}


def search_tables(attack: dict[str, Any] | None) -> list[tuple[str, list[tuple]]]:
    if not attack:
        return []
    names = (("jailbreak", "Makes it answer", "answered"), ("over_refuse", "Makes it refuse", "refused"))
    null = search_rows(attack, "null")
    searched = attack.get("n_search") or {}
    tables = [(title, search_rows(attack, name)) for name, title, _ in names]
    for name, _, rate in names:
        rows = [row for row in null if row[3].get("goal", "jailbreak") == name]
        tables.append((f"Neutral control: {rate}", rows))
    for name, title, _ in names:
        title = f"{title}: shortlist, on the {searched.get(name, '')} questions of the search"
        tables.append((" ".join(title.split()), shortlist(attack, name)))
    return [(title, rows[:50]) for title, rows in tables if rows]
