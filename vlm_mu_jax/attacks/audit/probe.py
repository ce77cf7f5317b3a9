"""How well the first word of a question alone predicts the outcome."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def first_word_probe(first: Sequence[str], target_n: np.ndarray, seed: int = 0, folds: int = 5) -> dict[str, Any]:
    """How well the first word alone predicts the outcome, cross-validated.

    The classifier is the smoothed rate of the outcome for the word in the training folds (two pseudo-questions at the
    overall rate), outcome predicted above 1/2; a word not seen in training is predicted as the majority.

    Returns: {"accuracy", "low", "high" (Wilson 95 %), "majority", "p" (one-sided exact McNemar test of probe against
      majority), "n", "folds"}; fractions in 0..1.
    """
    n = len(first)
    folds = max(2, min(folds, n))
    fold_n = np.random.default_rng(seed).permutation(n) % folds
    right_n, majority_right_n = np.zeros(n, bool), np.zeros(n, bool)
    for fold in range(folds):
        train, test = np.flatnonzero(fold_n != fold), np.flatnonzero(fold_n == fold)
        if not len(train):
            continue
        base = float(target_n[train].mean())
        seen, hit = Counter(first[i] for i in train), Counter(first[i] for i in train if target_n[i])
        rate = np.array([(hit[first[i]] + 2 * base) / (seen[first[i]] + 2) for i in test])
        right_n[test] = (rate > 0.5) == target_n[test]
        majority_right_n[test] = (base > 0.5) == target_n[test]
    gained, lost = int((right_n & ~majority_right_n).sum()), int((~right_n & majority_right_n).sum())
    p = float(stats.binomtest(gained, gained + lost, alternative="greater").pvalue) if gained + lost else 1.0
    interval = stats.binomtest(int(right_n.sum()), n).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "accuracy": float(right_n.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "majority": float(max(target_n.mean(), 1 - target_n.mean())),
        "p": p,
        "n": n,
        "folds": folds,
    }
