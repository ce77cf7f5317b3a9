"""Does the shortcut in the data explain the model? The audit's score of a word against what the word does.

Three links of one chain, word by word: how strongly a word goes with refusal in the data (log odds of the audit), how
much the model's refusal margin changes when the word is put into a question (the exhaustive search measures it for
every word), and how much of that change is gone in a model trained on rebalanced data. Correlations come with
percentile bootstrap intervals over words: they say how much the words agree, not how much models of other seeds would.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from vlm_mu_jax.errors import InputError

# Where the search puts a word -> the position class at which the audit counts it.
CLASS_OF = {"question_start": "first", "question_end": "last"}
_FEWEST = 4  # words; fewer have no interval worth the name


def attribute(
    audit: Mapping[str, Any],
    attack: Mapping[str, Any],
    rebalanced: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    resamples: int = 5000,
) -> dict[str, Any]:
    """Joins an audit with one or two searches.

    Args:
      audit: result of `audit.audit` on the data the attacked model was tuned on.
      attack: content of its attack.json.
      rebalanced: attack.json of a model tuned on rebalanced data, searched on the same questions.

    Returns: {"schema", "position", "models" (the names of the one or two), "goals", "points", "not_searched",
      "correlations"}. A point is a word: "seen" is "here" (the audit counts it at the position) or "elsewhere" (only
      somewhere else in a question), "score", "low", "high" its log odds there, "change" the mean change
      of the refusal margin against the unchanged question, in nats, each goal's questions with equal weight,
      "change_rebalanced" the same in the other model and "removed" the difference. correlations: {"change" |
      "removed": {"here" | "elsewhere": `correlation`}}. not_searched: words of the position that the search did not
      try.

    Raises:
      InputError: a file without margins, of another position, or of two searches that have no word in common.
    """
    position = _position(attack)
    goals, change = _changes(attack, position)
    after = None
    if rebalanced is not None:
        other_goals, after = _changes(rebalanced, position)
        if other_goals != goals:
            raise InputError("the two attacks have different goals; run bin/attack with the same flags for both models")
    rows = _rows(audit, CLASS_OF[position])
    points = [_point(row, seen, change, after) for row, seen in rows if row["word"] in change]
    points = [point for point in points if after is None or point["change_rebalanced"] is not None]
    if not points:
        raise InputError("the audit and the attack have no word in common; search with --words=pieces or audit:FILE")
    return {
        "schema": 1,
        "position": position,
        "models": [one.get("model") for one in (attack, rebalanced) if one is not None],
        "goals": goals,
        "points": points,
        "not_searched": sorted(row["word"] for row, seen in rows if seen == "here" and row["word"] not in change),
        "correlations": {
            name: {
                seen: correlation(*_columns(points, seen, name), seed=seed, resamples=resamples)
                for seen in ("here", "elsewhere")
            }
            for name in (("change",) if after is None else ("change", "removed"))
        },
    }


def _position(attack: Mapping[str, Any]) -> str:
    position = next((name for name in attack.get("positions") or () if name in CLASS_OF), None)
    if position is None:
        raise InputError(f"the attack searched none of {', '.join(CLASS_OF)}, which are what an audit is about")
    return position


def _changes(attack: Mapping[str, Any], position: str) -> tuple[list[str], dict[str, float]]:
    """(goals, word -> mean change of the margin over them)."""
    part = ((attack.get("by_position") or {}).get(position) or {}).get("search") or {}
    goals = sorted(goal for goal in part if part[goal].get("margins"))
    if not goals:
        raise InputError(f"the attack holds no margins at {position}; run this version's bin/attack again")
    changes = [
        {word: margin - part[goal]["original_margin"] for word, margin in part[goal]["margins"].items()}
        for goal in goals
    ]
    return goals, {word: float(np.mean([one[word] for one in changes])) for word in changes[0]}


def _rows(audit: Mapping[str, Any], position: str) -> list[tuple[Mapping[str, Any], str]]:
    """The audit's rows of the position, then those of the words it never saw there."""
    here = [row for row in audit["rows"] if row["position"] == position]
    seen = {row["word"] for row in here}
    others = [row for row in audit["rows"] if row["position"] == "any" and row["word"] not in seen]
    return [(row, "here") for row in here] + [(row, "elsewhere") for row in others]


def _point(
    row: Mapping[str, Any], seen: str, change: Mapping[str, float], after: Mapping[str, float] | None
) -> dict[str, Any]:
    word = row["word"]
    point = {"word": word, "seen": seen, "questions": row["safe"] + row["unsafe"], "score": row["log_odds"]}
    point |= {"low": row["low"], "high": row["high"], "change": change[word]}
    if after is None:
        return point
    left = after.get(word)
    return point | {"change_rebalanced": left, "removed": None if left is None else change[word] - left}


def _columns(points: Sequence[Mapping[str, Any]], seen: str, name: str) -> tuple[list[float], list[float]]:
    chosen = [point for point in points if point["seen"] == seen]
    return [point["score"] for point in chosen], [point[name] for point in chosen]


def correlation(
    x: Sequence[float], y: Sequence[float], *, seed: int = 0, resamples: int = 5000
) -> dict[str, Any] | None:
    """Pearson and Spearman correlation with 95 % percentile bootstrap intervals over the pairs.

    Returns: {"n", "pearson": {"value", "low", "high"}, "spearman": {...}}; None for fewer than 4 pairs or a constant
      column. Resamples in which a column is constant have no correlation and are left out.
    """
    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x_N) < _FEWEST or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None
    draws_RN = np.random.default_rng(seed).integers(len(x_N), size=(resamples, len(x_N)))
    found: dict[str, Any] = {"n": len(x_N)}
    for name, values in {"pearson": _pearson, "spearman": _spearman}.items():
        drawn_R = values(x_N[draws_RN], y_N[draws_RN])
        low, high = np.nanpercentile(drawn_R, [2.5, 97.5])
        found[name] = {"value": float(values(x_N[None], y_N[None])[0]), "low": float(low), "high": float(high)}
    return found


def _pearson(x_RN: np.ndarray, y_RN: np.ndarray) -> np.ndarray:
    """Row by row; NaN where a row of either is constant."""
    x_RN = x_RN - x_RN.mean(axis=1, keepdims=True)
    y_RN = y_RN - y_RN.mean(axis=1, keepdims=True)
    spread_R = np.sqrt((x_RN**2).sum(axis=1) * (y_RN**2).sum(axis=1))
    constant_R = (np.ptp(x_RN, axis=1) == 0) | (np.ptp(y_RN, axis=1) == 0)
    return np.where(constant_R, np.nan, (x_RN * y_RN).sum(axis=1) / np.where(constant_R, 1, spread_R))


def _spearman(x_RN: np.ndarray, y_RN: np.ndarray) -> np.ndarray:
    return _pearson(stats.rankdata(x_RN, axis=1), stats.rankdata(y_RN, axis=1))
