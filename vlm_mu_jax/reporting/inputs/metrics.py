"""One measured rate, and how it is read from a file."""

import math
from dataclasses import dataclass
from typing import Any

from vlm_mu_jax.errors import InputError


@dataclass(frozen=True)
class Rate:
    """A measured rate: value in 0..1, k of n questions where counted, low and high the 95 % interval where known."""

    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None
    k: int | None = None


def flatten_metrics(metrics: dict[str, Any], where: str, prefix: str = "") -> dict[str, Rate]:
    """Nested metrics as {path: Rate}. Entries without a value (n = 0) are dropped."""
    flat: dict[str, Rate] = {}
    for name, entry in metrics.items():
        path = f"{prefix}{name}"
        if isinstance(entry, dict) and "value" not in entry:
            flat.update(flatten_metrics(entry, where, path + "/"))
        elif metric := as_rate(entry, f"{where}: metric {path}"):
            flat[path] = metric
    return flat


def as_rate(entry: Any, where: str) -> Rate | None:
    """A Rate from {"value", "n", "low", "high", "k"} or from a bare number. None when there is no value."""
    fields = entry if isinstance(entry, dict) else {"value": entry}
    numbers = {name: fields.get(name) for name in ("value", "n", "low", "high", "k")}
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise InputError(f"{where}: field {name!r} is not a number")
        if number is not None and not math.isfinite(number):
            numbers[name] = None
    return None if numbers["value"] is None else Rate(**numbers)


def number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
