"""One whole attack by another method than the word search: attempts, their control, real answers, a judge.

The result has the form of the word search's: `any_of_k` with the unchanged questions, the attack, and a control that
pays the same price (as many tries of the same kind) without being chosen. Searches (suffixes, image perturbations) end
at the refusal margin; success is what a judge says of the answers, never the margin.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.attack import pgd, suffix
from vlm_mu_jax.attack.guards import FirstPass
from vlm_mu_jax.attack.margins_file import MarginsFile
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.questions import asks_of, pick
from vlm_mu_jax.attack.search import GOALS, Progress
from vlm_mu_jax.attack.verify import RATE, SUCCESS, SUMMARY, Attempt, Attempts, Verifier, any_shot, rate
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.evaluation.judges import Judge
from vlm_mu_jax.model.decoder import Steer

# Of records: what is tried, its control, and further rates to stand beside them.
Make = Callable[[Records], tuple[Attempts, Attempts, Mapping[str, Attempts]]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields as in `campaign.Settings`. shots: how many of the suffixes found are tried on verification questions."""

    goals: tuple[str, ...] = ("jailbreak", "over_refuse")
    shots: int = 3
    search_questions: int | None = 32
    verify_questions: int | None = None
    seed: int = 0
    batch_size: int = 32
    max_new_tokens: int = 64


@dataclasses.dataclass
class Trial:
    """What every method needs; fields as in `campaign.Campaign`. method: its name, in the result and in answers files.

    folder: where attack images are written. file: finished questions, from which a killed search continues.
    """

    method: str
    model: Any
    search: Records
    verify: Records
    judge: Judge
    answers: Path
    folder: Path
    settings: Settings
    steer: Steer | FirstPass | None = None
    answer_steer: Any = None
    progress: Progress | None = None
    file: MarginsFile | None = None
    mesh: jax.sharding.Mesh | None = None

    def fixed(self, make: Make, control: str) -> dict[str, Any]:
        """Attempts that need no search. control: what the control is, in words. Returns the content of attack.json."""
        parts = {}
        for goal in self.settings.goals:
            asked = pick(self.verify, goal, self.settings.verify_questions, self.settings.seed)
            attempts, null, beside = make(asked)
            measured = self._measure(asked, goal, attempts, null, "")
            for name, more in beside.items():
                outcomes = self._verifier.outcomes(asked, more, f"{self.method}_{name}", f"{goal} {name}")
                measured[name] = rate(any_shot(outcomes, SUCCESS[goal]))
            parts[goal] = measured | {"answers": _count(attempts, null, *beside.values())}
        return self._result(parts, control, None)

    def suffixes(self, openings: Openings, propose: suffix.Propose, use: suffix.Settings) -> dict[str, Any]:
        """A suffix for every search question, tried on that question, and the best ones on all verification questions.

        Returns the content of attack.json.
        """
        parts = {}
        for goal in self.settings.goals:
            asked = pick(self.search, goal, self.settings.search_questions, self.settings.seed)
            found = suffix.search(
                self.model, asks_of(asked), openings, propose, use, goal=goal, steer=self.steer, mesh=self.mesh,
                file=self.file, progress=self.progress,
            )  # fmt: skip
            ranked = sorted(found, key=lambda one: -GOALS[goal] * (one.margin - one.original))
            best = ranked[: self.settings.shots]
            others = pick(self.verify, goal, self.settings.verify_questions, self.settings.seed)
            attempts, null = ({r.id: _suffixed(r.question, texts) for r in others} for texts in _texts(best))
            measured = self._measure(others, goal, attempts, null, "transfer")
            own, own_null = (
                {r.id: _suffixed(r.question, [text]) for r, text in zip(asked, texts, strict=True)}
                for texts in _texts(found)
            )
            on_itself = self._measure(asked, goal, own, own_null, "own") | {"searched_on_these_questions": True}
            parts[goal] = measured | {
                "per_question": on_itself,
                "answers": _count(attempts, null, own, own_null),
                "found": [_entry(record.id, one) for record, one in zip(asked, found, strict=True)],
            }
        return self._result(parts, "random suffixes of as many tokens", openings) | {"search": dataclasses.asdict(use)}

    def perturbations(self, openings: Openings, use: pgd.Settings) -> dict[str, Any]:
        """An image for every verification question, tried on that question. Returns the content of attack.json."""
        parts = {}
        for goal in self.settings.goals:
            asked = pick(self.verify, goal, self.settings.verify_questions, self.settings.seed)
            found = pgd.search(
                self.model, asks_of(asked), openings, use, self.folder, goal=goal, steer=self.steer, file=self.file,
                progress=self.progress,
            )  # fmt: skip
            attempts, null = (
                {r.id: [Attempt(name, r.question, image=Path(path))] for r, path in zip(asked, paths, strict=True)}
                for name, paths in (("pgd", [f.image for f in found]), ("random", [f.control for f in found]))
            )
            measured = self._measure(asked, goal, attempts, null, "") | {"searched_on_these_questions": True}
            parts[goal] = measured | {
                "answers": _count(attempts, null),
                "found": [_entry(record.id, one) for record, one in zip(asked, found, strict=True)],
            }
        control = "the same images, every value changed by the same bound at random"
        return self._result(parts, control, openings) | {"search": dataclasses.asdict(use)}

    @property
    def _verifier(self) -> Verifier:
        use = self.settings
        return Verifier(
            self.model, self.judge, self.answers, use.batch_size, use.max_new_tokens, self.answer_steer, self.progress
        )

    def _measure(self, asked: Records, goal: str, attempts: Attempts, null: Attempts, what: str) -> dict[str, Any]:
        names, label = (self.method, f"{self.method}_control"), " ".join(filter(None, (goal, self.method, what)))
        measured = self._verifier.measure(asked, goal, attempts, null, names, label)
        return {key: measured[key] for key in ("n", *SUMMARY)}

    def _result(self, parts: Mapping[str, Any], control: str, openings: Openings | None) -> dict[str, Any]:
        use = self.settings
        found = {goal: part.pop("found") for goal, part in parts.items() if "found" in part}
        answers = {goal: part.pop("answers") for goal, part in parts.items()}
        return {
            "schema": 1,
            "method": self.method,
            "any_of_k": {RATE[goal]: part for goal, part in parts.items()},
            "k": {goal: len(part["per_shot"]) for goal, part in parts.items()},
            "rows": [row for goal, part in parts.items() for row in _rows(goal, part)],
            "control": control,
            "n_verify": {goal: part["n"] for goal, part in parts.items()},
            "found": found,
            "budget": {goal: {"answers": answers[goal], **_spent(found.get(goal, []))} for goal in parts},
            "openings": openings and [self.model.processor.decode(ids) for ids in openings.refusal],
            "judge": self.judge.name,
            "guarded": self.answer_steer is not None,
            "dtype": str(jax.tree.leaves(self.model.params)[0].dtype),
            "seed": use.seed,
            "max_new_tokens": use.max_new_tokens,
        }


def _rows(goal: str, part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The result as a table: one row for every set of questions that were asked."""
    rows = [_row(goal, "searched" if part.get("searched_on_these_questions") else "verification", part)]
    return [*rows, _row(goal, "searched", part["per_question"])] if "per_question" in part else rows


def _row(goal: str, questions: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "goal": goal,
        "questions": questions,
        "n": part["n"],
        "k": len(part["per_shot"]),
        "original": part["original"],
        "attack": part["any_of_k"],
        "control": part["any_of_k_null"],
        "p": part["words_against_null"]["p"],
    }


def _suffixed(question: str, texts: Sequence[str]) -> list[Attempt]:
    return [Attempt(text, suffix.with_suffix(question, text)) for text in texts]


def _texts(found: Sequence[suffix.Found]) -> tuple[list[str], list[str]]:
    return [one.text for one in found], [one.control for one in found]


def _entry(name: str, found: suffix.Found | pgd.Found) -> dict[str, Any]:
    """One question's search for the file: curves stay in NAME.margins.jsonl."""
    row = {"id": name, **found.to_dict(), "steps": len(found.curve)}
    del row["curve"]
    return row


def _spent(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summed over the questions: whole prompts scored, gradients made, FLOPs of both."""
    return {key: sum(one.get(key, 0) for one in found) for key in ("prompts", "gradients", "flops")}


def _count(*sides: Attempts) -> int:
    """Answers that were generated for these attempts (the unchanged questions come on top)."""
    return sum(len(attempts) for side in sides for attempts in side.values())
