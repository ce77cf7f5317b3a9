"""The rows about single words: of audit.json (`bin/audit`) and of attack.json (`bin/attack`)."""

from typing import Any

from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate


def audit_rows(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The usable rows of first words, from the word that goes most with refusal to the one that goes least."""
    rows = [row for row in audit.get("rows") or [] if row.get("position") == "first"]
    return sorted((row for row in rows if row.get("log_odds") is not None), key=lambda row: -row["log_odds"])


def search_rows(attack: dict[str, Any], name: str) -> list[tuple[str, float | None, Rate | None, dict[str, Any]]]:
    """Rows of one list of attack.json as (word, score, success or refusal rate, raw row), in the search's order."""
    rows = []
    for row in attack.get(name) or []:
        rate = next((row[key] for key in ("asr", "rr", "rate") if row.get(key) is not None), None)
        if isinstance(rate, int | float):
            rate = {"value": rate, **{key: row.get(key) for key in ("n", "low", "high")}}
        rows.append((row["word"], row.get("score"), as_rate(rate, "attack.json"), row))
    return rows


def shortlist(attack: dict[str, Any], goal: str) -> list[tuple[str, float | None, Rate | None, dict[str, Any]]]:
    """All words that were tried with real answers on the search questions, in the form of `search_rows`."""
    rows = (attack.get("search") or {}).get(goal, {}).get("shortlist") or []
    return [(row["word"], row.get("score"), as_rate(row.get("success_on_search"), "attack.json"), row) for row in rows]
