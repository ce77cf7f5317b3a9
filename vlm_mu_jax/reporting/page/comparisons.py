"""The paired tests of the runs as tables, one per pair of models, with what is the same in every row said once."""

from dataclasses import dataclass
from typing import Any

from vlm_mu_jax.reporting import wording

_PAIR = ("run", "baseline", "seed")
_FIRST = ("metric", "value", "baseline_value", "n", "b", "c", "p", "p_holm", "significant")


@dataclass(frozen=True)
class PairedTests:
    """The tests of one model against its baseline. `tally` is empty where no row says what is significant."""

    title: str
    tally: str
    same: str  # the fields that are equal in every row
    columns: list[str]
    rows: list[list[str]]


def pairs(rows: list[dict[str, Any]]) -> list[PairedTests]:
    """One table per run, baseline and seed, in the order given. Columns are the plain fields, telling ones first."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        plain = {name: value for name, value in row.items() if not isinstance(value, dict | list)}
        groups.setdefault(tuple(str(row.get(name, "")) for name in _PAIR), []).append(plain)
    several = len({seed for *_, seed in groups}) > 1
    return [_pair(run, base, seed if several else "", found) for (run, base, seed), found in groups.items()]


def _pair(run: str, baseline: str, seed: str, rows: list[dict[str, Any]]) -> PairedTests:
    fields = list(dict.fromkeys(name for row in rows for name in row if name not in _PAIR))
    constant = [name for name in fields if name not in _FIRST and len({str(row.get(name)) for row in rows}) == 1]
    columns = [name for name in _FIRST if name in fields]
    columns += [name for name in fields if name not in (*_FIRST, *constant)]
    told = [row["significant"] for row in rows if isinstance(row.get("significant"), bool)]
    return PairedTests(
        title=(f"{run} against {baseline}" if baseline else run) + (f", seed {seed}" if seed else ""),
        tally=f"{sum(told)} of {len(told)} differ significantly" if told else "",
        same="; ".join(_cell(rows[0].get(name), name) for name in constant),
        columns=[name.replace("_", " ") for name in columns],
        rows=[[_cell(row.get(name), name) for name in columns] for row in rows],
    )


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (
            wording.p_value(value).removeprefix("p = ").removeprefix("p ") if name.startswith("p") else f"{value:.3g}"
        )
    return wording.metric(value) if name == "metric" and isinstance(value, str) else str(value)
