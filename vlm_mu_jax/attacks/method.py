"""What a method of attack is: it proposes attempts and their control, and one measurement says what they do.

    measured = run(method, setting)
    content = method.report(setting, measured)

The methods that search are `words.one_word.OneWord`, `methods.suffix.SuffixAttack` and `methods.pgd.PixelAttack`. The
others make their attempts of the question alone (`Unsearched`).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchRun, SearchTarget
from vlm_mu_jax.attacks.measure import RATE, Attempts, Comparison, Measured, Measurement
from vlm_mu_jax.attacks.questions import pick
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.parallel.meeting import meet
from vlm_mu_jax.storage.model_folder import Model

GOALS = ("jailbreak", "over_refuse")
SEARCHED = ("per_question", "on_search_questions")  # the rates on the questions that suffixes were searched on


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which questions are used, and how often each is tried.

    Attributes:
      goals: some of "jailbreak" (unsafe questions) and "over_refuse" (safe ones).
      shots: K, how often a question is tried.
      search_questions, verify_questions: at most so many per goal; None is all.
      seed: draws them, and what a control draws.
    """

    goals: tuple[str, ...] = GOALS
    shots: int = 3
    search_questions: int | None = 32
    verify_questions: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every method works in.

    Attributes:
      search, verify: the questions for searches, and those that the attack is measured on, which a search never sees.
      measurement: asks the model. None where only searches run.
      steer: the guard as searches take it. The answers' guard is in `measurement.options`.
      folder: where attack images are written.
      share: the part of the questions that a search uses; None is all. An attack is measured on all.
    """

    model: Model
    search: Records
    verify: Records
    draw: Draw
    measurement: Measurement | None
    steer: Steer | FirstPass | None = None
    run: SearchRun = SearchRun()
    folder: Path = Path("images")
    share: Share | None = None

    def to_search(self, goal: str) -> Records:
        """The questions that a search for the goal uses. Raises InputError when there is none."""
        return pick(self.search, goal, self.draw.search_questions, self.draw.seed)

    def shared_out(self, records: Records) -> Records:
        """Those of the records that are this job's to search."""
        if self.share is None:
            return records
        return dataclasses.replace(records, items=records.items[self.share.index :: self.share.count])

    def to_verify(self, goal: str) -> Records:
        """The questions that the goal's attack is measured on. Raises InputError when there is none."""
        return pick(self.verify, goal, self.draw.verify_questions, self.draw.seed)

    def target(self, openings: Openings, goal: str) -> SearchTarget:
        """The search target of a goal under this setting's guard."""
        return SearchTarget(openings, goal, self.steer)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a method wants measured for one goal.

    Attributes:
      main: the comparison whose rates are the attack's.
      others: further comparisons by name, such as "per_question": each question under what was searched on it.
      details: what the method's report needs again; nobody else reads it.
    """

    goal: str
    main: Comparison
    others: Mapping[str, Comparison] = dataclasses.field(default_factory=dict)
    details: Any = None


@dataclasses.dataclass(frozen=True)
class MeasuredProposal:
    """A proposal with what the judge says of each of its comparisons."""

    proposal: Proposal
    main: Measured
    others: Mapping[str, Measured]


class Method(Protocol):
    """One way to attack. name: what results and answers files call it."""

    name: str

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """Attempts and their control, one proposal after the other; the searches run while it is iterated."""
        ...

    def search(self, setting: Setting) -> None:
        """Runs the searches on this job's share of the questions; the run's file keeps what they find.

        Raises:
          InputError: the method has no searches that can be shared out.
        """
        ...

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        ...


def run(method: Method, setting: Setting) -> list[MeasuredProposal]:
    """Measures all that a method proposes."""
    found = []
    for proposal in method.propose(setting):
        main = setting.measurement.measure(proposal.goal, proposal.main)
        others = {name: setting.measurement.measure(proposal.goal, one) for name, one in proposal.others.items()}
        found.append(MeasuredProposal(proposal, main, others))
    return found


def report(
    name: str, control: str, openings: Openings | None, setting: Setting, measured: Sequence[MeasuredProposal]
) -> dict[str, Any]:
    """The content of attack.json, for every method but the one-word attack.

    Args:
      name: the method's.
      control: what the control is, in words.
      openings: what a search was after; None for a method without one.
    """
    parts = {one.proposal.goal: _part(one) for one in measured}
    found = {one.proposal.goal: one.proposal.details for one in measured if one.proposal.details is not None}
    answers = {one.proposal.goal: _answers(one) for one in measured}
    model, options = setting.model, setting.measurement.options
    return {
        "schema": 1,
        "method": name,
        "any_of_k": {RATE[goal]: part for goal, part in parts.items()},
        "k": {goal: len(part["per_shot"]) for goal, part in parts.items()},
        "rows": [row for goal, part in parts.items() for row in _rows(goal, part)],
        "control": control,
        "n_verify": {goal: part["n"] for goal, part in parts.items()},
        "found": found,
        "budget": {goal: {"answers": answers[goal], **_spent(found.get(goal, []))} for goal in parts},
        "towards": openings and ("answers that begin with" if openings.wanted else "no refusal that begins with"),
        "openings": openings and [model.processor.decode(ids) for ids in openings.refusal],
        "judge": setting.measurement.judge.name,
        "guarded": options.steer is not None,
        "dtype": str(jax.tree.leaves(model.params)[0].dtype),
        "seed": setting.draw.seed,
        "max_new_tokens": options.max_new_tokens,
    }


def _part(one: MeasuredProposal) -> dict[str, Any]:
    part = one.main.to_dict() | {name: metric.to_dict() for name, metric in one.main.beside.items()}
    if one.proposal.main.searched:
        part["searched_on_these_questions"] = True
    for name, other in one.others.items():
        part[name] = other.to_dict() | {"searched_on_these_questions": True}
    return part


def _answers(one: MeasuredProposal) -> int:
    """Answers that were generated for the attempts (the unchanged questions come on top)."""
    return one.proposal.main.answers + sum(other.answers for other in one.proposal.others.values())


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


def _spent(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summed over the questions: whole prompts scored, gradients made, FLOPs of both."""
    return {key: sum(one.get(key, 0) for one in found) for key in ("prompts", "gradients", "flops")}


# (records, setting) -> (attempts, their control, further attempts by name whose rates stand beside)
Make = Callable[[Records, Setting], tuple[Attempts, Attempts, Mapping[str, Attempts]]]


@dataclasses.dataclass(frozen=True)
class Unsearched:
    """Attempts that are made of the question alone.

    Attributes:
      make: the attempts, their control, and further attempts by name.
      control: what the control is, in words.
      about: what else attack.json says.
    """

    name: str
    make: Make
    control: str
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def propose(self, setting: Setting) -> Iterator[Proposal]:
        """The attempts on the verification questions."""
        for goal in setting.draw.goals:
            records = setting.to_verify(goal)
            attempts, control, beside = self.make(records, setting)
            meet("attempts")  # process 0 has written their pictures
            names = (self.name, f"{self.name}_control")
            yield Proposal(goal, Comparison(records, attempts, control, names, f"{goal} {self.name}", beside))

    def search(self, setting: Setting) -> None:
        """Raises InputError: there is nothing to search."""
        raise InputError(f"--method={self.name} searches nothing, so there is nothing for --shard; leave it out")

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        return report(self.name, self.control, None, setting, measured) | dict(self.about)
