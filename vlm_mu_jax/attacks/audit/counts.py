"""Counts of every word of safety data against the labels, at three position classes, and what the first word predicts.

A model that is tuned on data in which one opening word goes with refusals learns the word instead of the harm. The
counts follow Figure 2 of the safety-mirage paper (arXiv 2503.11832). They have intervals, because a word that was seen
twice proves nothing.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from vlm_mu_jax.data.records import Record

POSITIONS = ("first", "any", "last")
CONFIDENCE = 0.95


def safety_records(records: Sequence[Record]) -> list[Record]:
    """The records an audit is about: the safe and unsafe ones, or all where none is either."""
    return [r for r in records if r.kind in ("unsafe", "safe")] or list(records)


@dataclasses.dataclass(frozen=True)
class WordRow:
    """One word at one position class. Counts are questions, never occurrences.

    pmi: log2 of (rate of the outcome given the word / overall rate), the rate given the word shrunk to the overall
      rate by one pseudo-question, so that an unseen word has 0.
    log_odds: log odds ratio of the outcome with the word against without, half a question added to every cell
      (Haldane-Anscombe); low, high: its 95 % interval (Wald).
    beyond_chance: whether the interval still excludes 0 when widened for the number of words at this position
      (Bonferroni), i.e. one word in the list that is a false alarm happens in at most 5 % of data sets.
    """

    word: str
    position: str
    safe: int
    unsafe: int
    refused: int
    answered: int
    pmi: float
    log_odds: float
    low: float
    high: float
    beyond_chance: bool


def word_rows(
    words: Sequence[Sequence[str]], position: str, refused_n: np.ndarray, unsafe_n: np.ndarray, target_n: np.ndarray
) -> list[WordRow]:
    """One row per word seen at the position class, most frequent first."""
    at_position = [_at(position, w) for w in words]
    total = Counter(word for chosen in at_position for word in chosen)
    refused, unsafe, hit = (_count(at_position, flags_n) for flags_n in (refused_n, unsafe_n, target_n))
    n, base = len(words), float(target_n.mean())
    wide = _quantile(1 - (1 - CONFIDENCE) / max(len(total), 1))
    rows = []
    for word, seen in total.most_common():
        a, b = hit[word], seen - hit[word]
        c, d = base * n - a, (1 - base) * n - b
        log_odds, error = log_odds_ratio(a, b, c, d)
        rows.append(
            WordRow(
                word=word,
                position=position,
                safe=seen - unsafe[word],
                unsafe=unsafe[word],
                refused=refused[word],
                answered=seen - refused[word],
                pmi=math.log2((a + base) / (seen + 1) / base),
                log_odds=log_odds,
                low=log_odds - _quantile(CONFIDENCE) * error,
                high=log_odds + _quantile(CONFIDENCE) * error,
                beyond_chance=abs(log_odds) > wide * error,
            )
        )
    return rows


def _at(position: str, words: Sequence[str]) -> set[str]:
    if not words:
        return set()
    return {"first": {words[0]}, "last": {words[-1]}, "any": set(words)}[position]


def _count(at_position: Iterable[set[str]], flags_n: np.ndarray) -> Counter[str]:
    return Counter(word for chosen, flag in zip(at_position, flags_n, strict=True) if flag for word in chosen)


def _quantile(confidence: float) -> float:
    return float(stats.norm.isf((1 - confidence) / 2))


def log_odds_ratio(a: float, b: float, c: float, d: float) -> tuple[float, float]:
    """Log odds ratio of the table [[a, b], [c, d]] and its standard error, half a count added to every cell."""
    cells = [max(x, 0.0) + 0.5 for x in (a, b, c, d)]
    log_odds = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    return log_odds, math.sqrt(sum(1 / x for x in cells))


def candidates(rows: Sequence[WordRow], goal: str, position: str = "first") -> list[dict[str, Any]]:
    """Words whose interval excludes 0, by its bound nearer to 0: the effect that the data can prove, strongest first.

    goal "jailbreak": words that go with the absence of the outcome; "over_refuse": with the outcome.
    """
    sign = {"jailbreak": -1, "over_refuse": 1}[goal]
    bound = {row.word: (row.low if sign > 0 else -row.high) for row in rows if row.position == position}
    chosen = [row for row in rows if row.position == position and bound[row.word] > 0]
    chosen.sort(key=lambda row: (-bound[row.word], row.word))
    return [
        {
            "word": r.word,
            "score": bound[r.word],
            "refused": r.refused,
            "answered": r.answered,
            "log_odds": r.log_odds,
            "low": r.low,
            "high": r.high,
            "beyond_chance": r.beyond_chance,
        }
        for r in chosen
    ]


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
