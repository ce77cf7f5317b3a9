"""The audit of safety data: every word counted, what the first word alone predicts, words that could break a model.

import vlm_mu_jax
found = vlm_mu_jax.audit(records)
found.probe["accuracy"], [one["word"] for one in found.jailbreak_candidates]

A model that is tuned on data in which one opening word goes with refusals learns the word instead of the harm. The
counts follow Figure 2 of the safety-mirage paper (arXiv 2503.11832). They have intervals, because a word that was seen
twice proves nothing.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from vlm_mu_jax.attacks.margin.openings import refuses
from vlm_mu_jax.data import turns
from vlm_mu_jax.data.placing import split_words
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError

POSITIONS = ("first", "any", "last")
CONFIDENCE = 0.95


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


@dataclasses.dataclass(frozen=True)
class AuditOptions:
    """How data are audited.

    Attributes:
      outcome: what the words are tested against: the "unsafe" label, "refusal" of the reference answer, or "auto".
        "auto" is the label where the data have both kinds of questions, else refusal: a judge misses some refusals.
      seed: of the probe's folds.
      turn: which question of a conversation is audited: "first", "last" or its number.
      folds: of the probe's cross-validation.
      refused: says whether a record's reference answer is a refusal.
    """

    outcome: str = "auto"
    seed: int = 0
    folds: int = 5
    refused: Callable[[Record], bool] = refuses
    turn: str = "first"


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
      n: questions.
      outcome: "refusal" or "unsafe", what the words were tested against.
      labels: how many questions are "unsafe", "safe", "refused"; "unsafe_references": reference answers to unsafe
        questions, and "unsafe_answered": those that were taken for answers, each a refusal that was missed or an answer
        that should be none.
      turn: which question of every conversation was read. turns: how many of these stand behind earlier turns
        ("behind_turns"), how many have later ones ("before_turns"), and how many conversations lack the turn
        ("left_out").
      rows: every word at every position class, by position class, then by count.
      probe: how well the first word alone predicts the outcome; see `first_word_probe`.
      jailbreak_candidates, over_refuse_candidates: first words that go with the absence and with the presence of the
        outcome, strongest first; see `candidates`.
    """

    n: int
    outcome: str
    labels: Mapping[str, int]
    rows: Sequence[WordRow]
    probe: Mapping[str, Any]
    jailbreak_candidates: Sequence[Mapping[str, Any]]
    over_refuse_candidates: Sequence[Mapping[str, Any]]
    turn: str = "first"
    turns: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as audit.json holds them."""
        return {
            "schema": 1,
            "n": self.n,
            "outcome": self.outcome,
            "labels": dict(self.labels),
            "turn": self.turn,
            "turns": dict(self.turns),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "probe": dict(self.probe),
            "jailbreak_candidates": list(self.jailbreak_candidates),
            "over_refuse_candidates": list(self.over_refuse_candidates),
        }


def audit(
    records: Sequence[Record] | str | Path,
    options: AuditOptions = AuditOptions(),
) -> AuditResult:
    """Counts which words of safety data predict refusal.

        found = vlm_mu_jax.audit("data/train.json", vlm_mu_jax.AuditOptions(outcome="unsafe"))

    Args:
      records: the data, or their file. General records are left out where there are safe or unsafe ones.

    Raises:
      InputError: there is no record, or the outcome is the same for every record.
    """
    if isinstance(records, str | Path):
        from vlm_mu_jax.data import readers

        records = readers.read(records, check_images=False)
    safety = safety_records(records)
    if not safety:
        raise InputError("the data hold no record; give a folder or file with at least one question")
    safety, counts = turns.cut(safety, options.turn)
    refused_n = np.array([bool(options.refused(record)) for record in safety])
    unsafe_n = np.array([record.kind == "unsafe" for record in safety])
    outcome, target_n = _outcome(options.outcome, refused_n, unsafe_n)
    answered_n = np.array([record.kind == "unsafe" and bool(record.answer) for record in safety])
    words = [split_words(record.question) for record in safety]
    rows = [row for position in POSITIONS for row in word_rows(words, position, refused_n, unsafe_n, target_n)]
    return AuditResult(
        n=len(safety),
        outcome=outcome,
        labels={
            "unsafe": int(unsafe_n.sum()),
            "safe": int((~unsafe_n).sum()),
            "refused": int(refused_n.sum()),
            "unsafe_references": int(answered_n.sum()),
            "unsafe_answered": int((answered_n & ~refused_n).sum()),
        },
        rows=rows,
        probe=first_word_probe([w[0] if w else "" for w in words], target_n, options.seed, options.folds),
        jailbreak_candidates=candidates(rows, "jailbreak"),
        over_refuse_candidates=candidates(rows, "over_refuse"),
        turn=options.turn,
        turns=counts,
    )


def _outcome(name: str, refused_n: np.ndarray, unsafe_n: np.ndarray) -> tuple[str, np.ndarray]:
    by_name = {"refusal": refused_n, "unsafe": unsafe_n}
    if name == "auto":
        name = "unsafe" if 0 < unsafe_n.sum() < len(unsafe_n) else "refusal"
    if name not in by_name:
        raise InputError(f"--outcome={name}: there is no such outcome; use auto, refusal or unsafe")
    target_n = by_name[name]
    if target_n.all() or not target_n.any():
        raise InputError(
            f"every one of the {len(target_n)} questions has the same outcome ({name}), so no word can predict it;"
            " give data with both, for example safe and unsafe questions together"
        )
    return name, target_n


def safety_records(records: Sequence[Record]) -> list[Record]:
    """The records an audit is about: the safe and unsafe ones, or all where none is either."""
    return [r for r in records if r.kind in ("unsafe", "safe")] or list(records)


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


def candidates(rows: Sequence[WordRow], goal: str) -> list[dict[str, Any]]:
    """First words whose interval excludes 0, by its bound nearer to 0, strongest first: the effect that the data can
    prove.

    goal "jailbreak": words that go with the absence of the outcome; "over_refuse": with the outcome.
    """
    sign = {"jailbreak": -1, "over_refuse": 1}[goal]
    bound = {row.word: (row.low if sign > 0 else -row.high) for row in rows if row.position == "first"}
    chosen = [row for row in rows if row.position == "first" and bound[row.word] > 0]
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
