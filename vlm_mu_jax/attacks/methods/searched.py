"""The methods that search: suffixes, for each question or for all together, and images.

A search ends at the refusal margin. Success is what a judge says of the answers, never the margin.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.attacks.measure import Attempt, Attempts, Comparison
from vlm_mu_jax.attacks.method import MeasuredProposal, Proposal, Setting, report
from vlm_mu_jax.attacks.methods import gcg, pgd, random_search, suffix
from vlm_mu_jax.attacks.methods.pgd import FoundImage, PixelOptions
from vlm_mu_jax.attacks.methods.suffix import FoundSuffix, SuffixOptions
from vlm_mu_jax.attacks.methods.suffix_text import with_suffix
from vlm_mu_jax.attacks.openings import Openings
from vlm_mu_jax.attacks.questions import lone_questions
from vlm_mu_jax.data.records import Records

PROPOSE = {"gcg": gcg.propose, "random": random_search.propose}


@dataclasses.dataclass(frozen=True)
class SuffixAttack:
    """A suffix behind the question, tried on the questions it was searched on and on all verification questions.

    Attributes:
      by: "gcg" (by gradient) or "random" (blindly); how a step's suffixes are proposed.
      openings: of the answers that are to become unlikely, or likely where they are `wanted`.
      universal: searches K suffixes for all search questions together instead of one for each question.
    """

    by: str
    openings: Openings
    options: SuffixOptions = SuffixOptions()
    universal: bool = False

    @property
    def name(self) -> str:
        return f"{self.by}_universal" if self.universal else self.by

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """The best suffixes on verification questions, beside each search question under its own."""
        for goal in setting.draw.goals:
            yield self._together(setting, goal) if self.universal else self._each(setting, goal)

    def _each(self, setting: Setting, goal: str) -> Proposal:
        records, target = setting.to_search(goal), setting.target(self.openings, goal)
        questions = lone_questions(records, self.name)
        found = suffix.search(setting.model, questions, target, PROPOSE[self.by], self.options, setting.run)
        ranked = sorted(found, key=lambda one: -target.sign * (one.margin - one.original))
        own, own_null = (
            {r.id: _suffixed(r.question, [text]) for r, text in zip(records, texts, strict=True)}
            for texts in _texts(found)
        )
        entries = [{"id": r.id, **_entry(one)} for r, one in zip(records, found, strict=True)]
        best = ranked[: setting.draw.shots]
        return self._proposal(setting, goal, best, "per_question", (records, own, own_null), entries)

    def _together(self, setting: Setting, goal: str) -> Proposal:
        records, target, shots = setting.to_search(goal), setting.target(self.openings, goal), setting.draw.shots
        questions = lone_questions(records, self.name)
        found = suffix.universal(
            setting.model, questions, target, PROPOSE[self.by], self.options, setting.run, shots=shots
        )
        entries = [{"questions": len(records), **_entry(one)} for one in found]
        own = (records, *_everywhere(records, found))
        return self._proposal(setting, goal, found, "on_search_questions", own, entries)

    def _proposal(
        self,
        setting: Setting,
        goal: str,
        best: Sequence[FoundSuffix],
        own_name: str,
        own: tuple[Records, Attempts, Attempts],
        entries: list[dict[str, Any]],
    ) -> Proposal:
        others = setting.to_verify(goal)
        names, label = (self.name, f"{self.name}_control"), f"{goal} {self.name}"
        main = Comparison(others, *_everywhere(others, best), names, f"{label} transfer")
        return Proposal(goal, main, {own_name: Comparison(*own, names, f"{label} own", searched=True)}, entries)

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        content = report(self.name, "random suffixes of as many tokens", self.openings, setting, measured)
        return content | {"search": dataclasses.asdict(self.options)}


@dataclasses.dataclass(frozen=True)
class PixelAttack:
    """An image for every verification question by projected gradient descent, tried on that question."""

    openings: Openings
    options: PixelOptions = PixelOptions()
    name: str = "pgd"

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """The changed images, beside images that are changed as much at random."""
        for goal in setting.draw.goals:
            records, target = setting.to_verify(goal), setting.target(self.openings, goal)
            questions = lone_questions(records, self.name)
            found = pgd.search(setting.model, questions, target, self.options, setting.folder, setting.run)
            attempts, control = (
                {r.id: [Attempt(name, r.question, image=Path(path))] for r, path in zip(records, paths, strict=True)}
                for name, paths in (("pgd", [f.image for f in found]), ("random", [f.control for f in found]))
            )
            names = (self.name, f"{self.name}_control")
            main = Comparison(records, attempts, control, names, f"{goal} {self.name}", searched=True)
            entries = [{"id": r.id, **_entry(one)} for r, one in zip(records, found, strict=True)]
            yield Proposal(goal, main, details=entries)

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        control = "the same images, every value changed by the same bound at random"
        content = report(self.name, control, self.openings, setting, measured)
        return content | {"search": dataclasses.asdict(self.options)}


def _suffixed(question: str, texts: Sequence[str]) -> list[Attempt]:
    return [Attempt(text, with_suffix(question, text)) for text in texts]


def _everywhere(records: Records, found: Sequence[FoundSuffix]) -> tuple[Attempts, Attempts]:
    """All of these suffixes behind every question, and their controls."""
    attack, control = ({r.id: _suffixed(r.question, texts) for r in records} for texts in _texts(found))
    return attack, control


def _texts(found: Sequence[FoundSuffix]) -> tuple[list[str], list[str]]:
    return [one.text for one in found], [one.control for one in found]


def _entry(found: FoundSuffix | FoundImage) -> dict[str, Any]:
    """One search for the file: what it did step by step, and question by question, stays in NAME.margins.jsonl."""
    row = {name: value for name, value in found.to_dict().items() if not isinstance(value, tuple)}
    if isinstance(found, FoundSuffix):
        row |= {"margin": found.margin, "original": found.original, "joined": len(found.margins)}
        row["tokens"] = len(found.ids)
    return row | {"steps": len(found.curve)}
