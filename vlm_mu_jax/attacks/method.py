"""What a method of attack is: it proposes attempts and their control, and one measurement says what they do.

    measured = run(method, setting)
    content = method.report(setting, measured)

The methods are `words.one_word.OneWord`, `methods.searched.SuffixAttack` and `PixelAttack`, and
`methods.unsearched.Unsearched`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlm_mu_jax.attacks.measure import Comparison, Measured, Measurement
from vlm_mu_jax.attacks.openings import Openings
from vlm_mu_jax.attacks.prefix import FirstPass
from vlm_mu_jax.attacks.questions import pick
from vlm_mu_jax.attacks.search_run import SearchRun, SearchTarget
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.storage.model_folder import Model

GOALS = ("jailbreak", "over_refuse")


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
      steer: the guard as searches take it. The answers' guard is in `measurement.options`.
      folder: where attack images are written.
    """

    model: Model
    search: Records
    verify: Records
    draw: Draw
    measurement: Measurement
    steer: Steer | FirstPass | None = None
    run: SearchRun = SearchRun()
    folder: Path = Path("images")

    def to_search(self, goal: str) -> Records:
        """The questions that a search for the goal uses. Raises InputError when there is none."""
        return pick(self.search, goal, self.draw.search_questions, self.draw.seed)

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
