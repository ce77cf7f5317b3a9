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

from vlm_mu_jax.attacks.experiment import Experiment
from vlm_mu_jax.attacks.measure import RATE, SUCCESS, SUMMARY, Attempt, Attempts, any_shot, rate
from vlm_mu_jax.attacks.methods import pgd, suffix
from vlm_mu_jax.attacks.methods.suffix_text import with_suffix
from vlm_mu_jax.attacks.openings import Openings
from vlm_mu_jax.attacks.questions import asks_of
from vlm_mu_jax.data.records import Records

RANDOM = "random suffixes of as many tokens"
SEARCHED = ("per_question", "on_search_questions")  # the rates on the questions that suffixes were searched on
# Of records: what is tried, its control, and further rates to stand beside them.
Make = Callable[[Records], tuple[Attempts, Attempts, Mapping[str, Attempts]]]


@dataclasses.dataclass
class Trial(Experiment):
    """One attack by one method.

    method: its name, in the result and in answers files. folder: where attack images are written. `settings.shots` is
    also how many suffixes are tried on verification questions.
    """

    _: dataclasses.KW_ONLY
    method: str
    folder: Path

    def fixed(self, make: Make, control: str) -> dict[str, Any]:
        """Attempts that need no search. control: what the control is, in words. Returns the content of attack.json."""
        parts = {}
        for goal in self.settings.goals:
            asked = self.to_verify(goal)
            attempts, null, beside = make(asked)
            measured = self._measure(asked, goal, attempts, null, "")
            for name, more in beside.items():
                outcomes = self.verifier.outcomes(asked, more, f"{self.method}_{name}", f"{goal} {name}")
                measured[name] = rate(any_shot(outcomes, SUCCESS[goal]))
            parts[goal] = measured | {"answers": _count(attempts, null, *beside.values())}
        return self._result(parts, control, None)

    def suffixes(self, openings: Openings, propose: suffix.Propose, use: suffix.SuffixOptions) -> dict[str, Any]:
        """A suffix for every search question, tried on that question, and the best ones on all verification questions.

        Returns the content of attack.json.
        """
        parts = {}
        for goal in self.settings.goals:
            asked = self.to_search(goal)
            found = suffix.search(self.model, asks_of(asked), openings, propose, use, goal=goal, **self._searching())
            ranked = sorted(found, key=lambda one: -openings.sign(goal) * (one.margin - one.original))
            own, own_null = (
                {r.id: _suffixed(r.question, [text]) for r, text in zip(asked, texts, strict=True)}
                for texts in _texts(found)
            )
            entries = [{"id": r.id, **_entry(one)} for r, one in zip(asked, found, strict=True)]
            best = ranked[: self.settings.shots]
            parts[goal] = self._transferred(goal, best, asked, (own, own_null), "per_question", entries)
        return self._result(parts, RANDOM, openings) | {"search": dataclasses.asdict(use)}

    def universal_suffixes(
        self, openings: Openings, propose: suffix.Propose, use: suffix.SuffixOptions
    ) -> dict[str, Any]:
        """`settings.shots` suffixes, each for all search questions together; tried on these, and on all verification
        questions. Returns the content of attack.json.
        """
        parts = {}
        for goal in self.settings.goals:
            asked = self.to_search(goal)
            found = suffix.universal(
                self.model,
                asks_of(asked),
                openings,
                propose,
                use,
                shots=self.settings.shots,
                goal=goal,
                **self._searching(),
            )
            entries = [{"questions": len(asked), **_entry(one)} for one in found]
            sides = _everywhere(asked, found)
            parts[goal] = self._transferred(goal, found, asked, sides, "on_search_questions", entries)
        return self._result(parts, RANDOM, openings) | {"search": dataclasses.asdict(use)}

    def _searching(self) -> dict[str, Any]:
        """What a search takes of the trial."""
        return {"steer": self.steer, "meshes": self.meshes, "file": self.file, "progress": self.progress}

    def _transferred(
        self,
        goal: str,
        best: Sequence[suffix.FoundSuffix],
        searched: Records,
        own: tuple[Attempts, Attempts],
        name: str,
        found: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """The `best` suffixes on verification questions, and under `name` the attempts `own` on those searched."""
        others = self.to_verify(goal)
        sides = _everywhere(others, best)
        measured = self._measure(others, goal, *sides, "transfer")
        measured[name] = self._measure(searched, goal, *own, "own") | {"searched_on_these_questions": True}
        return measured | {"answers": _count(*sides, *own), "found": found}

    def perturbations(self, openings: Openings, use: pgd.PixelOptions) -> dict[str, Any]:
        """An image for every verification question, tried on that question. Returns the content of attack.json."""
        parts = {}
        for goal in self.settings.goals:
            asked = self.to_verify(goal)
            found = pgd.search(self.model, asks_of(asked), openings, use, self.folder, goal=goal, **self._searching())
            attempts, null = (
                {r.id: [Attempt(name, r.question, image=Path(path))] for r, path in zip(asked, paths, strict=True)}
                for name, paths in (("pgd", [f.image for f in found]), ("random", [f.control for f in found]))
            )
            measured = self._measure(asked, goal, attempts, null, "") | {"searched_on_these_questions": True}
            parts[goal] = measured | {
                "answers": _count(attempts, null),
                "found": [{"id": r.id, **_entry(one)} for r, one in zip(asked, found, strict=True)],
            }
        control = "the same images, every value changed by the same bound at random"
        return self._result(parts, control, openings) | {"search": dataclasses.asdict(use)}

    def _measure(self, asked: Records, goal: str, attempts: Attempts, null: Attempts, what: str) -> dict[str, Any]:
        names, label = (self.method, f"{self.method}_control"), " ".join(filter(None, (goal, self.method, what)))
        measured = self.verifier.measure(asked, goal, attempts, null, names, label)
        return {key: measured[key] for key in ("n", *SUMMARY, "labels")}

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
            "towards": openings and ("answers that begin with" if openings.wanted else "no refusal that begins with"),
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
    return rows + [_row(goal, "searched", part[name]) for name in SEARCHED if name in part]


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
    return [Attempt(text, with_suffix(question, text)) for text in texts]


def _everywhere(asked: Records, found: Sequence[suffix.FoundSuffix]) -> tuple[Attempts, Attempts]:
    """All of these suffixes behind every question, and their controls."""
    attack, control = ({r.id: _suffixed(r.question, texts) for r in asked} for texts in _texts(found))
    return attack, control


def _texts(found: Sequence[suffix.FoundSuffix]) -> tuple[list[str], list[str]]:
    return [one.text for one in found], [one.control for one in found]


def _entry(found: suffix.FoundSuffix | pgd.FoundImage) -> dict[str, Any]:
    """One search for the file: what it did step by step, and question by question, stays in NAME.margins.jsonl."""
    row = {name: value for name, value in found.to_dict().items() if not isinstance(value, tuple)}
    if isinstance(found, suffix.FoundSuffix):
        row |= {"margin": found.margin, "original": found.original, "joined": len(found.margins)}
        row["tokens"] = len(found.ids)
    return row | {"steps": len(found.curve)}


def _spent(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summed over the questions: whole prompts scored, gradients made, FLOPs of both."""
    return {key: sum(one.get(key, 0) for one in found) for key in ("prompts", "gradients", "flops")}


def _count(*sides: Attempts) -> int:
    """Answers that were generated for these attempts (the unchanged questions come on top)."""
    return sum(len(attempts) for side in sides for attempts in side.values())
