"""The methods that need no search: a begun answer, paraphrases, images without content, a written question."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlm_mu_jax.attacks.measure import Attempts, Comparison
from vlm_mu_jax.attacks.method import MeasuredProposal, Proposal, Setting, report
from vlm_mu_jax.attacks.methods import images, paraphrase, prefill
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError

# Of records and the setting: what is tried, its control, and further attempts whose rates stand beside.
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
            names = (self.name, f"{self.name}_control")
            yield Proposal(goal, Comparison(records, attempts, control, names, f"{goal} {self.name}", beside))

    def report(self, setting: Setting, measured: Sequence[MeasuredProposal]) -> dict[str, Any]:
        """The content of attack.json."""
        return report(self.name, self.control, None, setting, measured) | dict(self.about)


def begun(prefills: Sequence[str] | None, answers: Sequence[str]) -> Unsearched:
    """The answer is begun for the model.

    Args:
      prefills: the beginnings; None takes the most frequent ones of `answers`, one per shot.
      answers: reference answers that do not refuse. The control draws its words from them.
    """

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = prefills or prefill.found(answers, setting.draw.shots)
        texts = [prefill.at_boundary(setting.model.processor, "", text) for text in texts]
        return (*prefill.attempts(records, texts, setting.draw.seed, answers), {})

    return Unsearched("prefill", make, "as many random words of the reference answers")


def paraphrased(given: Sequence[str] | Mapping[str, Sequence[str]], word: str, mode: str) -> Unsearched:
    """Paraphrases with a word as their first one. given: as `paraphrase.read` returns it."""

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        texts = paraphrase.paraphrases(records, given)
        both, alone, word_alone = paraphrase.attempts(records, texts, word, mode)
        return both, alone, {"word_alone": word_alone}

    return Unsearched("paraphrase", make, "the same paraphrases without the word", {"word": word})


def pictures(method: str, carrier: str = images.CARRIER) -> Unsearched:
    """Images without content ("blank", "noise"), or the question written into one ("typographic").

    carrier: what the prompt beside a written question asks.
    """

    def make(records: Records, setting: Setting) -> tuple[Attempts, Attempts, Mapping[str, Attempts]]:
        seen, folder, draw = setting.model.processor.settings, setting.folder, setting.draw
        if seen is None:
            raise InputError(f"--method={method} changes images, but this is a text-only model; use another --method")
        if method == "blank":
            sides = images.blank(records, seen, folder, draw.seed)
        elif method == "noise":
            sides = images.noise(records, seen, folder, draw.seed, draw.shots)
        else:
            sides = images.typographic(records, seen, folder, carrier)
        return (*sides, {})

    written = method == "typographic"
    control = "the same prompt with the images without the writing" if written else "the own image under faint noise"
    return Unsearched(method, make, control)
