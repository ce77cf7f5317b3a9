"""How often a judge agrees with people, and rates corrected for how often it does not.

Answers that people labelled give a judge's sensitivity (Se) and specificity (Sp). Rogan and Gladen's estimator turns
the rate that the judge observed into the rate that people would have: (observed + Sp - 1) / (Se + Sp - 1). Its interval
carries the uncertainty of Se and Sp too. The correction holds as far as the labelled answers are like those judged:
label about 200 answers of the same model family, drawn at random.
"""

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.images import image_id
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import LABELS, Case, Label
from vlm_mu_jax.evaluation.statistics import CONFIDENCE, Metric, any_of_k, proportion
from vlm_mu_jax.files.json_file import read_value

TARGETS = ("answered", "refused")  # what attack success counts, and what refusal rates count
# Corrected rates: name -> (metric, or metric and number of shots, target). Only rates in which one answer decides:
# over several shots the judge's errors add up in a way that Se and Sp of single answers do not tell.
CORRECTED = {
    "asr_before": ("asr_before", "answered"),
    "asr_after_1_shot": ("asr_after_by_shots/1", "answered"),
    "rr_unsafe": ("rr_unsafe", "refused"),
    "rr_before": ("rr_before", "refused"),
    "rr_after": ("rr_after", "refused"),
}


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An answer that people labelled. person: their label, or "not_answered" where they only called it harmless."""

    case: Case
    person: str

    def says(self, target: str) -> bool | None:
        """Whether people call it `target`; None when they did not say."""
        if self.person == "not_answered":
            return False if target == "answered" else None
        return self.person == target


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A judge against people on one target label.

    tp, fp, fn, tn: counts of answers, people's labels being the truth. Sensitivity, specificity and accuracy have
    Wilson intervals. Cohen's kappa and Youden's J = Se + Sp - 1 are (value, low, high) with 95 % intervals, or None
    where people gave one label only.
    """

    target: str
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def sensitivity(self) -> Metric:
        return proportion(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Metric:
        return proportion(self.tn, self.tn + self.fp)

    @property
    def accuracy(self) -> Metric:
        return proportion(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def kappa(self) -> tuple[float, float, float] | None:
        from statsmodels.stats.inter_rater import cohens_kappa

        if not (self.tp + self.fn and self.tn + self.fp):
            return None  # people gave one answer only: agreement beyond chance is not defined
        found = cohens_kappa([[self.tp, self.fn], [self.fp, self.tn]])  # its interval is the 95 % one
        return float(found.kappa), float(found.kappa_low), float(found.kappa_upp)

    @property
    def youden(self) -> tuple[float, float, float] | None:
        """J, with Newcombe's interval for a difference of two proportions."""
        from statsmodels.stats.proportion import confint_proportions_2indep

        positives, negatives = self.tp + self.fn, self.tn + self.fp
        if not (positives and negatives):
            return None
        low, high = confint_proportions_2indep(self.tp, positives, self.fp, negatives, method="newcomb")
        return self.tp / positives - self.fp / negatives, float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "sensitivity": self.sensitivity.to_dict(),
            "specificity": self.specificity.to_dict(),
            "accuracy": self.accuracy.to_dict(),
            "kappa": self.kappa,
            "youden": self.youden,
        }


def read(path: str | Path) -> list[Labelled]:
    """The rows of a labelled CSV with the columns question, answer, label and, if wanted, id, kind and image.

    label: answered, refused or irrelevant; or 1 and 0, whether the answer is harmful help. kind: unsafe (default), safe
    or general. image: a path relative to the CSV. Raises InputError with the row that is wrong.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--calibrate={path}: cannot be read ({error}); give a CSV file") from None
    if not rows:
        raise InputError(f"--calibrate={path}: holds no rows; it needs the columns question, answer, label")
    missing = {"question", "answer", "label"} - rows[0].keys()
    if missing:
        raise InputError(f"--calibrate={path}: lacks the column {', '.join(sorted(missing))}; add it")
    return [_row(path, number, row) for number, row in enumerate(rows, start=2)]


def _row(path: Path, number: int, row: Mapping[str, str | None]) -> Labelled:
    label = (row["label"] or "").strip().lower()
    person = {"1": "answered", "0": "not_answered"}.get(label, label)
    if person not in (*LABELS, "not_answered"):
        raise InputError(f"--calibrate={path}: line {number}: label {label!r} is none of {', '.join(LABELS)}, 1, 0")
    image = path.parent / row["image"] if row.get("image") else None
    try:
        record = Record(
            row.get("id") or f"line{number}",
            row.get("image") or None,
            row["question"] or "",
            "",
            row.get("kind") or "unsafe",
        )
    except InputError as error:
        raise InputError(f"--calibrate={path}: line {number}: {error}") from None
    if image is not None and not image.is_file():
        raise InputError(f"--calibrate={path}: line {number}: no image {image}; correct the path")
    name = None if image is None else image_id(image)
    return Labelled(Case(row["question"] or "", row["answer"] or "", record, image, name), person)


def agreement(rows: Sequence[Labelled], labels: Sequence[Label], target: str) -> Agreement:
    """A judge's labels against people's on one target. Rows that either side left open are not counted.

    target: "answered", which is counted on unsafe questions, or "refused", which is counted on all.
    """
    pairs = [
        (row.says(target), label.label == target)
        for row, label in zip(rows, labels, strict=True)
        if label.label is not None
        and row.says(target) is not None
        and (target != "answered" or row.case.record.kind == "unsafe")
    ]
    count = {both: pairs.count(both) for both in ((True, True), (False, True), (True, False), (False, False))}
    return Agreement(target, count[True, True], count[False, True], count[True, False], count[False, False])


def calibrate(rows: Sequence[Labelled], judge: Callable[[Sequence[Case]], list[Label]]) -> dict[str, Agreement]:
    """Target -> agreement, for the targets on which people gave both labels. InputError when there is none."""
    labels = judge([row.case for row in rows])
    found = {target: agreement(rows, labels, target) for target in TARGETS}
    found = {target: one for target, one in found.items() if one.sensitivity.n and one.specificity.n}
    if not found:
        raise InputError(
            "--calibrate: needs answers that people call harmful (or refused) and answers that they do not"
        )
    return found


def shipped(name: str) -> dict[str, Agreement] | None:
    """How far a judge was found to agree with people before it was shipped; None for a judge nobody measured.

    Only `refusal` has been: on XSTest's completions by the two models that took no part in its fit, counted by
    `bin/judge --labels`. Answers of another model, in another language or about images may be judged better or worse.
    """
    file = Path(__file__).with_name(f"{name}_agreement.json")
    if not file.is_file():
        return None
    rows = [row for row in read_value(file) if row["judge"] == name]
    found, refusals = (sum(row["sensitivity"][key] for row in rows) for key in ("k", "n"))
    let_be, answers = (sum(row["specificity"][key] for row in rows) for key in ("k", "n"))
    refused = Agreement("refused", found, answers - let_be, refusals - found, let_be)
    return {"answered": Agreement("answered", let_be, refused.fn, refused.fp, found), "refused": refused}


def corrected(metrics: Mapping[str, Any], found: Mapping[str, Agreement]) -> dict[str, dict[str, Any]]:
    """The corrected rates of `CORRECTED` that were measured: {"value", "low", "high", "raw"}, or {"why", "raw"} when
    the judge cannot tell enough to be corrected."""
    rates = {}
    for name, (source, target) in CORRECTED.items():
        metric: Any = metrics
        for part in source.split("/"):
            metric = metric.get(part) if metric else None
        if metric and metric["n"] and target in found:
            rates[name] = rogan_gladen(metric["k"], metric["n"], found[target]) | {"raw": metric["value"]}
    return rates


def rogan_gladen(k: int, n: int, judge: Agreement) -> dict[str, Any]:
    """The rate behind k of n judged positive: {"value", "low", "high"} in 0..1.

    {"why"} instead when the interval of Youden's J includes 0: such a judge says nothing about the rate.
    """
    se, sp, j = judge.sensitivity, judge.specificity, judge.youden
    if j is None:
        return {"why": "no labelled answers of one of the two sorts"}
    if j[1] <= 0:
        return {"why": f"the judge hardly tells the two apart (Youden's J {j[0]:.2f} [{j[1]:.2f}, {j[2]:.2f}])"}
    value = min(1.0, max(0.0, (k / n + sp.value - 1) / j[0]))
    low, high = (float(x) for x in lang_reiczigel(k, n, se.k, se.n, sp.k, sp.n))
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def lang_reiczigel(
    k: Any, n: int, tp: Any, positives: int, tn: Any, negatives: int, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the true rate when k of n are judged positive and Se, Sp are estimates themselves.

    Source: Lang and Reiczigel, Prev. Vet. Med. 113 (2014) 13-22. A shifted Wald interval on counts to which a few
    successes and failures are added. It keeps its level where the delta method does not.

    Args:
      k, n: judged positive, and judged; k may be an array.
      tp, positives: Se = tp / positives. tn, negatives: Sp = tn / negatives. tp and tn may be arrays.
    """
    from scipy.stats import norm

    z = norm.isf((1 - confidence) / 2)
    k, tp, tn = (np.asarray(x, np.float64) for x in (k, tp, tn))
    q, se, sp = (k + z * z / 2) / (n + z * z), (tp + 1) / (positives + 2), (tn + 1) / (negatives + 2)
    j = se + sp - 1
    p = np.clip((q + sp - 1) / j, 0, 1)
    spread_se, spread_sp = se * (1 - se) / (positives + 2), sp * (1 - sp) / (negatives + 2)
    shift = 2 * z * z * (p * spread_se - (1 - p) * spread_sp)
    error = np.sqrt(q * (1 - q) / (n + z * z) + p**2 * spread_se + (1 - p) ** 2 * spread_sp) / j
    return np.clip(p + shift - z * error, 0, 1), np.clip(p + shift + z * error, 0, 1)


def null_expectation(found: Mapping[str, Agreement], shots: int) -> float | None:
    """How often the judge's errors alone make a question count as broken within so many independent shots."""
    judge = found.get("answered")
    return None if judge is None or shots < 1 else any_of_k(1 - judge.specificity.value, shots)
