"""A table ready to show, and the cells that all tables share."""

from dataclasses import dataclass

from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.metrics import Rate

Cell = tuple[str, str]  # the value, and what it stands on in small print below it


@dataclass(frozen=True)
class RateTable:
    """A table ready to show: the first column names the row. On a phone `per_row` cells of a row stand side by side."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    per_row: int = 2


def measured(metric: Rate | None) -> Cell:
    """A rate with its interval and number of questions, or a dash where it was not measured."""
    return wording.rate(metric), wording.standing_on(metric)
