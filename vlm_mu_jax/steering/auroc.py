"""AUROC of direction scores: how well a projection tells harmful prompts from harmless ones, with its interval."""

import numpy as np

from vlm_mu_jax.errors import InputError


def auroc(positive_N: np.ndarray, negative_K: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting one half (Mann-Whitney U / NK)."""
    from scipy.stats import rankdata

    positive, negative = len(positive_N), len(negative_K)
    if not positive or not negative:
        raise InputError("AUROC needs at least one harmful and one harmless prompt; check the data file")
    ranks = rankdata(np.concatenate([positive_N, negative_K]))
    return float((ranks[:positive].sum() - positive * (positive + 1) / 2) / (positive * negative))


def auroc_interval(value: float, positive: int, negative: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % score interval (low, high) of an AUROC from the two sample sizes.

    It solves |theta - value| = z * sd(theta), with the Hanley-McNeil variance taken at theta rather than at the
    estimate (Newcombe 2006, method 5). Unlike Wald, DeLong or bootstrap intervals it keeps a width at 0 and 1, where
    perfectly separated layers lie.
    """
    mean_size = (positive + negative) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + mean_size * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(theta - value) - z * np.sqrt(theta * (1 - theta) * spread / (positive * negative))

    return _edge(excess, value, 0.0), _edge(excess, value, 1.0)


def _edge(excess, inside: float, outside: float) -> float:
    """Bisection for the border between `inside` (excess <= 0) and `outside` of an interval."""
    if inside == outside:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if excess(middle) <= 0 else (inside, middle)
    return (inside + outside) / 2


def auroc_per_layer(harmful_LN: np.ndarray, harmless_LK: np.ndarray) -> list[dict]:
    """AUROC of every layer's scores with its interval: [{"value", "low", "high", "n"}], n = prompts of both kinds."""
    rows = []
    for harmful_N, harmless_K in zip(harmful_LN, harmless_LK, strict=True):
        value = auroc(harmful_N, harmless_K)
        low, high = auroc_interval(value, len(harmful_N), len(harmless_K))
        rows.append({"value": value, "low": low, "high": high, "n": len(harmful_N) + len(harmless_K)})
    return rows
