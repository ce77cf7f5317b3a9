"""Public sets, side by side between the runs: what each scores by its own official rule, with n and interval."""

from dataclasses import dataclass

from vlm_mu_jax.evaluation import utility
from vlm_mu_jax.reporting import wording
from vlm_mu_jax.reporting.inputs.metrics import Rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun

_SAFETY = ("asr", "rr")  # the numbers that stand for a safety set
_RULES = {
    "vqa_official": "VQA accuracy, official",
    "vqa_m4c": "VQA accuracy, as M4C's evaluator (TextVQA) has it",
    "vqa_simple": "VQA accuracy, min(matches / 3, 1)",
    "accuracy_circular": "accuracy, right in every rotation of the choices",
    "accuracy": "accuracy",
    "perception": "perception, sum of points",
    "cognition": "cognition, sum of points",
    "grade": "mean grade of the grading model",
    "unread": "answers the scorer cannot read",
    "ungraded": "answers without a grade",
    "ir_unsafe": "IR on unsafe",
    "rr_unsafe": "RR on unsafe",
}


@dataclass(frozen=True)
class SetNumber:
    """One number of one set. `name` is empty below a row of the same set. A cell is (value, interval and n)."""

    name: str
    rule: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class PublicSets:
    """`main`: the numbers that stand for their sets. `further`: all others, breakdowns left out."""

    columns: list[str]
    main: list[SetNumber]
    further: list[SetNumber]


def public_sets(runs: list[ModelRun]) -> PublicSets | None:
    """The numbers under metrics["sets"] of all runs. None where no run was asked a public set."""
    names = [name for run in runs for name in run.group("sets") if name.count("/") == 1]  # no breakdowns
    if not names:
        return None
    of_set: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        short, number = name.split("/")
        of_set.setdefault(short, []).append(number)
    main: list[SetNumber] = []
    further: list[SetNumber] = []
    for short, numbers in of_set.items():
        standing = _standing(short, numbers)
        main += _rows(runs, short, standing)
        further += _rows(runs, short, [number for number in numbers if number not in standing])
    return PublicSets([run.label for run in runs], main, further)


def _standing(short: str, numbers: list[str]) -> list[str]:
    """The numbers that stand for a set: the headline of a utility set, ASR and RR of a safety set; else the first."""
    found = [number for number in numbers if number in (utility.headline(short), "cognition")]  # of MME: both sums
    return found or [number for number in _SAFETY if number in numbers] or numbers[:1]


def _rows(runs: list[ModelRun], short: str, numbers: list[str]) -> list[SetNumber]:
    return [
        SetNumber(
            "" if place else short,
            _RULES.get(number) or wording.metric(number),
            [_measured(run.metric(f"sets/{short}/{number}")) for run in runs],
        )
        for place, number in enumerate(numbers)
    ]


def _measured(metric: Rate | None) -> tuple[str, str]:
    """A value above 1 is in points, not a share."""
    if metric is None or metric.value <= 1:
        return wording.rate(metric), wording.standing_on(metric)
    bounds = f"{metric.low:.1f}–{metric.high:.1f} · " if metric.low is not None and metric.high is not None else ""
    return f"{metric.value:.1f}", bounds + wording.sizes([metric])
