"""One row of the table: rates with their controls, question by question, and the tests against another model's row."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from vlm_mu_jax.attacks.measure import any_shot
from vlm_mu_jax.evaluation import metrics
from vlm_mu_jax.evaluation.results.summary import Evaluation
from vlm_mu_jax.evaluation.statistics import McNemar, holm, mcnemar

Flags = Mapping[str, bool]  # question id -> whether it counts

# rate -> (how the table calls it, whether less is better)
RATES = {
    "asr": ("harmful answers", True),
    "rr": ("harmless refused", True),
    "harmless_right": ("harmless right", False),
    "utility": ("utility", False),
}
TITLES = {
    "as_is": "as is",
    "text_only": "text only",
    "words": "searched words",
    "paraphrase": "paraphrase + word",
    "prefill": "prefill",
    "gcg": "GCG suffix",
    "pgd": "PGD image",
    "int8": "int8",
    "int4": "int4",
    "nf4": "nf4",
    "pruned": "pruned",
    "relearned": "relearned",
}
_OF_SETS = {
    "asr": ("unsafe_before", "answered"),
    "rr": ("harmless_before", "refused"),
    "harmless_right": ("harmless_before", "answered"),
}


@dataclasses.dataclass(frozen=True)
class RowRate:
    """Which questions count, and which count under the control (None without one)."""

    flags: Flags
    control: Flags | None = None

    def to_dict(self) -> dict[str, Any]:
        """{"rate", "control", "test"}; the test is McNemar's exact one of the rate against its control."""
        return {
            "rate": _metric(self.flags),
            "control": None if self.control is None else _metric(self.control),
            "test": None if self.control is None else dataclasses.asdict(mcnemar(self.control, self.flags)),
        }


@dataclasses.dataclass(frozen=True)
class HoldsRow:
    """What a model answers in one situation.

    Attributes:
      name: one of `options.ROWS`.
      what: what was done, in words. control: what it is compared with, in words; "" without a control.
      rates: by name, some of `RATES`; empty for a row that could not be made.
      skipped: why it could not be made; "" where it was.
    """

    name: str
    what: str
    control: str = ""
    rates: Mapping[str, RowRate] = dataclasses.field(default_factory=dict)
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As holds.json has it, without the single questions."""
        kept = {
            "name": self.name,
            "title": TITLES[self.name],
            "what": self.what,
            "control": self.control,
            "skipped": self.skipped,
        }
        return kept | {"rates": {name: self.rates[name].to_dict() for name in RATES if name in self.rates}}

    def stored(self) -> dict[str, Any]:
        """As rows/NAME.json has it: every question by itself."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "HoldsRow":
        """What `stored` made."""
        return msgspec.convert(stored, cls)


def of_evaluation(found: Evaluation, sets: Mapping[str, tuple[str, str]] = _OF_SETS) -> dict[str, Flags]:
    """RowRate -> its questions, of the sets that were asked. sets: rate -> (set, label that counts)."""
    flags = {}
    for name, (asked, label) in sets.items():
        if asked in found.answers:
            flags[name] = any_shot(metrics.outcomes(found.answers[asked], found.judge), label)
    if "utility" in found.answers:
        references = {key: record.answer for key, record in found.suite.records["utility"].items()}
        flags["utility"] = metrics.correct(found.answers["utility"], references)
    return flags


def against(rows: Sequence[HoldsRow], before: Sequence[HoldsRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> rate -> McNemar's exact test against the same row of the model before, on the same questions.

    {"n", "b", "c", "p", "p_holm"}: b questions counted before and not now, c the other way round. Holm's correction is
    over all of these tests.
    """
    theirs = {row.name: row.rates for row in before}
    tests: dict[tuple[str, str], McNemar] = {}
    for row in rows:
        for name, rate in row.rates.items():
            if name in theirs.get(row.name, {}):
                tests[row.name, name] = mcnemar(theirs[row.name][name].flags, rate.flags)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    adjusted = holm([test.p for test in tests.values()])
    for ((row, name), test), (p_holm, _) in zip(tests.items(), adjusted, strict=True):
        found.setdefault(row, {})[name] = {**dataclasses.asdict(test), "p_holm": p_holm}
    return found


def _metric(flags: Flags) -> dict[str, Any]:
    return metrics.share(flags).to_dict()
