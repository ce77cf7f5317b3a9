"""The audit of safety data: every word counted, what the first word alone predicts, words that could break a model.

import vlm_mu_jax
found = vlm_mu_jax.audit(records)
found.probe["accuracy"], [one["word"] for one in found.jailbreak_candidates]
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.attacks.audit.counts import POSITIONS, WordRow, candidates, first_word_probe, safety_records, word_rows
from vlm_mu_jax.attacks.openings import refuses
from vlm_mu_jax.data import turns
from vlm_mu_jax.data.placing import split_words
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError


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
      probe: how well the first word alone predicts the outcome; see `audit.counts.first_word_probe`.
      jailbreak_candidates, over_refuse_candidates: first words that go with the absence and with the presence of the
        outcome, strongest first; see `audit.counts.candidates`.
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
