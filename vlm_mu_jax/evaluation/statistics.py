"""Intervals and tests, over statsmodels: Wilson intervals, which hold at 0 of n, and exact tests for paired answers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8


@dataclasses.dataclass(frozen=True)
class Metric:
    """A proportion k / n with its 95 % Wilson interval [low, high], all in 0..1. None where n is 0."""

    value: float | None
    n: int
    k: int
    low: float | None
    high: float | None

    def to_dict(self) -> dict:
        """The form in `results.json`."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class McNemar:
    """An exact McNemar test over n pairs: b are yes before and no now, c are no before and yes now; p is two-sided."""

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


def any_of_k(one: float, k: int) -> float:
    """Chance that at least one of k independent tries is called a success when each is with chance `one`.

    With a judge's false-positive rate as `one`, this is how often best-of-k calls a question broken that never was. It
    is the reason why an attack with k words is compared with k neutral words and not with zero.
    """
    if not 0 <= one <= 1 or k < 1:
        raise ValueError("a chance is within 0..1, and k at least 1")
    return 1 - (1 - one) ** k


def questions_needed(rate: float, difference: float, power: float = POWER, alpha: float = ALPHA) -> int:
    """Questions per model that tell two rates apart when the models are asked different questions.

    The other rate is `rate - difference`, or `rate + difference` where that is below 0. The test is two-sided. Normal
    approximation with the pooled variance under no difference (statsmodels).
    """
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    other = _other_rate(rate, difference)
    return math.ceil(samplesize_proportions_2indep_onetail(other - rate, rate, power, alpha=alpha))


def pairs_needed(difference: float, discordant: float, power: float = POWER, alpha: float = ALPHA) -> int:
    """Questions to be asked of both models so that McNemar's exact test shows `difference`.

    discordant: share of questions that only one of the models gets right, at least |difference|. Formula of Connor
    (1987), with a continuity correction for the exact test, so that the power is at least the one asked for.
    """
    from scipy.stats import norm

    d = abs(difference)
    if not 0 < d <= discordant <= 1:
        raise ValueError("a difference is above 0 and at most the discordant share, which is at most 1")
    z, z_power = norm.isf(alpha / 2), norm.ppf(power)
    n = (z * math.sqrt(discordant) + z_power * math.sqrt(discordant - d * d)) ** 2 / (d * d)
    return math.ceil(n / 4 * (1 + math.sqrt(1 + 4 / (n * d))) ** 2)


def independent_discordance(rate: float, difference: float) -> float:
    """The discordant share of two models whose answers are independent of each other.

    It is the most to expect: what is hard for one model is mostly hard for the other.
    """
    other = _other_rate(rate, difference)
    return rate * (1 - other) + other * (1 - rate)


def _other_rate(rate: float, difference: float) -> float:
    d = abs(difference)
    if not (0 <= rate <= 1 and 0 < d <= 1) or (rate < d and rate + d > 1):
        raise ValueError(f"no rate lies {d} away from {rate}")
    return rate - d if rate >= d else rate + d
