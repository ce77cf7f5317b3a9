"""Models attacked with words that were searched for themselves, from the attack.json files of `bin/attack`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_mu_jax.reporting.inputs.content import Content
from vlm_mu_jax.reporting.inputs.metrics import Rate, as_rate
from vlm_mu_jax.reporting.inputs.runs import ModelRun


@dataclass(frozen=True)
class Direction:
    """One direction of a search: making the model answer unsafe requests, or refuse harmless questions.

    Rates on held-out questions: as asked, with any of the words found, with any of as many neutral words.
    """

    words: tuple[str, ...]
    as_asked: Rate | None
    searched: Rate | None
    neutral: Rate | None


@dataclass(frozen=True)
class OwnWords:
    """The words found for one model. `asr`: they make it answer. `rr`: they make it refuse."""

    model: str
    asr: Direction
    rr: Direction


def own_words(content: Content) -> list[OwnWords]:
    """One entry per model that was searched: the model of `attack` first, then those of `attack_again`."""
    files = {str(content.attack.get("model") or "searched model"): content.attack} if content.attack else {}
    files |= content.attack_again
    found = [_read(name, attack) for name, attack in files.items()]
    return [one for one in found if one.asr.searched or one.rr.searched]


def of_run(content: Content, run: ModelRun) -> OwnWords | None:
    """The words searched for this run: by its label, else by its name where only one run has that name."""
    alone = sum(other.name == run.name for other in content.runs) == 1
    names = (run.label, run.name) if alone else (run.label,)
    return next((one for one in own_words(content) if one.model in names), None)


def _read(model: str, attack: Mapping[str, Any]) -> OwnWords:
    return OwnWords(model, *(_direction(model, attack, rate, goal) for rate, goal in _GOALS.items()))


_GOALS = {"asr": "jailbreak", "rr": "over_refuse"}


def _direction(model: str, attack: Mapping[str, Any], rate: str, goal: str) -> Direction:
    rates = (attack.get("any_of_k") or {}).get(rate, {})
    shown = (rates.get(name) for name in ("original", "any_of_k", "any_of_k_null"))
    words = tuple(row["word"] for row in attack.get(goal) or [])
    return Direction(words, *(as_rate(one, f"attack of {model}") if one is not None else None for one in shown))
