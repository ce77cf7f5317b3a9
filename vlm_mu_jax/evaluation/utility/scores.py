"""Scores with their intervals: Wilson's for shares, a bootstrap over a set's units for means and composite scores."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vlm_mu_jax.evaluation.statistics import CONFIDENCE, proportion

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Score:
    """A value over n units with its 95 % interval, in the unit of the scorer (mostly 0..1, MME 0..200 a category).

    The bounds are None where a bootstrap cannot give any: all of its draws are equal, as for a perfect composite score.
    """

    value: float | None
    n: int
    low: float | None
    high: float | None

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def share(right: Sequence[bool]) -> Score:
    """The share of True with its Wilson interval."""
    found = proportion(int(sum(right)), len(right))
    return Score(found.value, found.n, found.low, found.high)


def mean(values: Sequence[float]) -> Score:
    """The mean of values in 0..1; values that are all 0 or 1 are a share."""
    if all(value in (0, 1) for value in values):
        return share([bool(value) for value in values])
    values_U = np.asarray(values, np.float64)
    return bootstrap(lambda weights_EU: weights_EU @ values_U / weights_EU.sum(axis=1), len(values_U))


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], units: int, seed: int = 0) -> Score:
    """Percentile interval over `DRAWS` resamples of the units.

    `statistic` maps weights_EU (how often each of U units is taken, E rows) to E values; weights of 1 give the value.
    NaN values (such as the precision of a draw without any "yes") are left out.
    """
    if not units:
        return Score(None, 0, None, None)
    value = float(statistic(np.ones((1, units)))[0])
    if np.isnan(value):
        return Score(None, units, None, None)
    rng, draws = np.random.default_rng(seed), []
    block = max(1, 4_000_000 // units)  # at most 32 MB of weights at a time
    for start in range(0, DRAWS, block):
        weights_EU = rng.multinomial(units, np.full(units, 1 / units), size=min(block, DRAWS - start))
        draws.append(statistic(weights_EU.astype(np.float64)))
    draws_E = np.concatenate(draws)
    low, high = np.nanquantile(draws_E, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high:
        return Score(value, units, None, None)
    return Score(value, units, min(float(low), value), max(float(high), value))


def by_kind(values: Mapping[str, float], kinds: Mapping[str, str]) -> dict[str, Score]:
    """The mean of each kind of question, kinds in sorted order; `kinds` names the kind of each question."""
    names = sorted({kinds[key] for key in values if kinds[key]})
    return {name: mean([value for key, value in values.items() if kinds[key] == name]) for name in names}
