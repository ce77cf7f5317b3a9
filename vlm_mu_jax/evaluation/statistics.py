"""Intervals and tests: a thin layer over statsmodels, with the choices that hold at 0 of n and for paired answers."""

import dataclasses
from collections.abc import Mapping, Sequence

CONFIDENCE, ALPHA = 0.95, 0.05


@dataclasses.dataclass(frozen=True)
class Metric:
    """A proportion k of n with its 95 % Wilson interval, all in 0..1; value and bounds are None when n is 0."""

    value: float | None
    n: int
    k: int
    low: float | None
    high: float | None

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Exact McNemar test: b = yes before and no now, c = no before and yes now, n pairs, two-sided p."""

    n: int
    b: int
    c: int
    p: float


def wilson(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson score interval of k successes in n, no continuity correction. ValueError unless 0 <= k <= n, n > 0."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} of {n} is no proportion")
    low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def proportion(k: int, n: int) -> Metric:
    """The metric of k successes in n."""
    if n == 0:
        return Metric(None, 0, 0, None, None)
    low, high = wilson(k, n)
    # At the ends rounding may leave the value outside by 1e-17; the interval contains it by definition.
    return Metric(k / n, n, k, min(low, k / n), max(high, k / n))


def mcnemar(before: Mapping[str, bool], now: Mapping[str, bool]) -> McNemar:
    """The exact test on the items that both hold, by key."""
    pairs = [(before[key], now[key]) for key in before if key in now]
    b = sum(1 for old, new in pairs if old and not new)
    c = sum(1 for old, new in pairs if new and not old)
    return McNemar(len(pairs), b, c, mcnemar_p(b, c))


def mcnemar_p(b: int, c: int) -> float:
    """Two-sided exact p of b against c discordant pairs; 1 when there are none."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    if b < 0 or c < 0:
        raise ValueError("counts of discordant pairs cannot be negative")
    if b + c == 0:
        return 1.0
    return float(test([[0, b], [c, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[tuple[float, bool]]:
    """(adjusted p, significant) of each test of one family, by Holm's step-down method, in the given order."""
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return []
    reject, adjusted, _, _ = multipletests(p_values, alpha=alpha, method="holm")
    return [(float(p), bool(r)) for p, r in zip(adjusted, reject, strict=True)]
