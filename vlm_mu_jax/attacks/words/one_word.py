"""One whole attack: search, selection by real answers, and verification on questions the search never saw.

The score proposes, answers decide. The exhaustive search ranks every candidate by the refusal margin on the search
questions; the best few generate real answers to those same questions, and a judge picks the K shots. What is reported
comes from the verification questions alone, beside two controls: the unchanged questions, and null words drawn from the
middle of the score distribution. Beside these universal words stand each search question's own best words, as an upper
bound: an attacker who knows the question and reads the margin. Positions are searched together and reported apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.attacks import experiment
from vlm_mu_jax.attacks.measure import ATTACK, RATE, SUCCESS, SUMMARY, with_words
from vlm_mu_jax.attacks.openings import GOALS, Openings
from vlm_mu_jax.attacks.questions import asks_of
from vlm_mu_jax.attacks.words import rescoring, search
from vlm_mu_jax.attacks.words.null_words import null_words
from vlm_mu_jax.attacks.words.search import FoundWords
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.evaluation import metrics

_CLAIM = (
    "exact over this vocabulary, these positions, this set of search questions, these weights, this dtype and this"
    " score; no claim beyond that, in particular none about words outside the vocabulary"
)


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """positions, mode: see `search.search`. shortlist: how many of the best-scored words are tried with real answers;
    `shots` skips that step. rescored: how many of the best words are scored again in float32. block: candidates per
    program."""

    positions: tuple[str, ...] = ("question_start",)
    mode: str = "swap"
    shortlist: int = 12
    rescored: int = 3
    block: int = 64


@dataclasses.dataclass
class Campaign(experiment.Experiment):
    """The word search as a whole.

    reference: the model before its safety tuning. Over-refusal words are then ranked by how much the tuning raised
    their margin, and words whose margin was positive before it (content: they say something harmful) are left out.
    """

    settings: Settings
    reference: Any = None

    def run(self, words: Sequence[str], openings: Openings) -> dict[str, Any]:
        """The content of attack.json. Raises InputError when a goal has no question to search or verify on."""
        use = self.settings
        found = {goal: self._search(self.model, goal, words, openings) for goal in use.goals}
        before = None
        if self.reference is not None and "over_refuse" in use.goals:
            before = self._search(self.reference, "over_refuse", words, openings, role="reference")
        parts = {
            position: self._at(
                position, {goal: found[goal][position] for goal in use.goals}, before and before[position], openings
            )
            for position in use.positions
        }
        return parts[use.positions[0]] | {"by_position": parts} | self._about(words, openings, found)

    def _search(
        self, model: Any, goal: str, words: Sequence[str], openings: Openings, role: str = ""
    ) -> dict[str, FoundWords]:
        use = self.settings
        return search.search(
            model,
            asks_of(self.to_search(goal)),
            words,
            openings,
            goal=goal,
            positions=use.positions,
            mode=use.mode,
            top=max(use.shots, use.shortlist),
            block=use.block,
            steer=None if role else self.steer,
            meshes=self.meshes,
            file=self.file,
            role=role,
            progress=self.progress,
        )

    def _at(
        self, position: str, found: Mapping[str, FoundWords], before: FoundWords | None, openings: Openings
    ) -> dict[str, Any]:
        """One position's part of the result."""
        use = self.settings
        chosen, tried = {}, {}
        for goal in use.goals:
            ranked = self._ranked(goal, found[goal], before)
            chosen[goal], tried[goal] = self._select(goal, position, ranked)
        content = set() if before is None else {before.words[i] for i in np.flatnonzero(before.margins_W > 0)}
        winners = {word for some in chosen.values() for word in some} | content
        null = null_words(list(found.values()), winners, use.shots, use.seed)
        part: dict[str, Any] = {goal: [] for goal in GOALS}
        part |= {"null": [], "any_of_k": {}, "search": {}, "n_verify": {}, "content_words": sorted(content)}
        for goal in use.goals:
            measured = self._measure(goal, position, chosen[goal], null)
            part[goal] = _entries(goal, position, chosen[goal], found[goal], measured)
            part["null"] += [{"word": w, "goal": goal, RATE[goal]: measured["null"][w]} for w in null]
            own = self._per_question(goal, position, found[goal], null)
            part["any_of_k"][RATE[goal]] = {key: measured[key] for key in SUMMARY} | {"per_question": own}
            part["n_verify"][goal] = measured["n"]
            part["search"][goal] = _search_part(found[goal], tried[goal]) | {
                "rescored": self._rescored(goal, position, found[goal], openings)
            }
        return part

    @staticmethod
    def _ranked(goal: str, found: FoundWords, before: FoundWords | None) -> list[str]:
        """The best words; of over-refusal by the margin that safety tuning added, if the model before it is known."""
        if goal != "over_refuse" or before is None:
            return [found.words[i] for i in found.best]
        order = np.argsort(before.margins_W - found.margins_W, kind="stable")
        return [found.words[i] for i in order if before.margins_W[i] <= 0][: len(found.best)]

    def _select(self, goal: str, position: str, best: list[str]) -> tuple[list[str], dict[str, float | None]]:
        """The K words, and the success of every word that was tried, on the search questions."""
        if len(best) <= self.settings.shots:
            return best, dict.fromkeys(best)
        asked = self.to_search(goal)
        words = dict.fromkeys((record.id for record in asked), best)
        attempts = with_words(asked, words, position, self.settings.mode)
        outcomes = self.verifier.outcomes(asked, attempts, ATTACK[goal], f"{goal} shortlist")
        rates = {word: metric.value or 0.0 for word, metric in metrics.by_word(outcomes, SUCCESS[goal]).items()}
        ranked = sorted(best, key=lambda word: -rates[word])  # stable: the score decides between equals
        return ranked[: self.settings.shots], rates

    def _measure(self, goal: str, position: str, chosen: Sequence[str], null: Sequence[str]) -> dict[str, Any]:
        """On the verification questions, which the search never saw."""
        asked = self.to_verify(goal)
        words = dict.fromkeys((record.id for record in asked), chosen)
        return self._compared(asked, goal, position, words, null, ATTACK[goal], f"{goal} verification")

    def _compared(
        self,
        asked: Records,
        goal: str,
        position: str,
        words: Mapping[str, Sequence[str]],
        null: Sequence[str],
        attack: str,
        what: str,
    ) -> dict[str, Any]:
        """Each question under its own `words`, beside all of them under the null words."""
        sides = (words, dict.fromkeys((record.id for record in asked), null))
        attempts, control = (with_words(asked, side, position, self.settings.mode) for side in sides)
        return self.verifier.measure(asked, goal, attempts, control, (attack, "null_word"), what)

    def _per_question(self, goal: str, position: str, found: FoundWords, null: Sequence[str]) -> dict[str, Any]:
        """Every search question under its own K best-scored words, on itself; null words with the same K."""
        asked = self.to_search(goal)
        numbers = found.best_per_question[:, : self.settings.shots]
        words = {record.id: [found.words[i] for i in row if i >= 0] for record, row in zip(asked, numbers, strict=True)}
        measured = self._compared(asked, goal, position, words, null, "per_question", f"{goal} own words")
        keys = ("n", "original", "any_of_k", "any_of_k_null", "words_against_null", "by_shots", "per_shot")
        return {key: measured[key] for key in keys} | {"searched_on_these_questions": True}

    def _rescored(self, goal: str, position: str, found: FoundWords, openings: Openings) -> dict[str, Any] | None:
        best = [int(i) for i in found.best[: self.settings.rescored]]
        if not best:
            return None
        margins_QM = rescoring.rescore(
            self.model,
            asks_of(self.to_search(goal)),
            [found.words[i] for i in best],
            openings,
            position=position,
            mode=self.settings.mode,
            steer=self.steer,
            progress=self.progress,
        )
        return rescoring.summary(found, best, margins_QM)

    def _about(
        self, words: Sequence[str], openings: Openings, found: Mapping[str, Mapping[str, FoundWords]]
    ) -> dict[str, Any]:
        use = self.settings
        at_first = {goal: some[use.positions[0]] for goal, some in found.items()}
        return {
            "schema": 1,
            "with_reference": self.reference is not None,
            "k": use.shots,
            "vocabulary_size": len(words),
            "positions": list(use.positions),
            "mode": use.mode,
            "n_search": {goal: len(one.original_Q) for goal, one in at_first.items()},
            "flops": sum(one.flops for one in at_first.values()),
            "seed": use.seed,
            "judge": self.judge.name,
            "score": "refusal margin: log-odds that the answer starts with a refusal opening, mean over questions",
            "openings": _openings_part(self.model, openings),
            "claim": _CLAIM,
            "guarded": self.steer is not None,
            "dtype": str(jax.tree.leaves(self.model.params)[0].dtype),
            "max_new_tokens": use.max_new_tokens,
        }


def _entries(
    goal: str, position: str, chosen: Sequence[str], found: FoundWords, measured: Mapping[str, Any]
) -> list[dict[str, Any]]:
    margin = dict(zip(found.words, found.margins_W.tolist(), strict=True))
    change = float(found.original_Q.mean())
    return [
        {
            "word": word,
            "position": position,
            "score": margin[word],
            "margin_change": margin[word] - change,
            RATE[goal]: measured["words"][word],
            "ir": measured["irrelevant"][word],
        }
        for word in chosen
    ]


def _search_part(found: FoundWords, tried: Mapping[str, float | None]) -> dict[str, Any]:
    margin = dict(zip(found.words, found.margins_W.tolist(), strict=True))
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    return {
        "original_margin": float(found.original_Q.mean()),
        "margin_quantiles": {str(q): float(np.quantile(found.margins_W, q)) for q in shares},
        "shortlist": [{"word": w, "score": margin[w], "success_on_search": rate} for w, rate in tried.items()],
        "run_as_whole_prompts": found.in_full,
        "prompts": found.margins_QW.size,
        "flops": found.flops,
        "margins": {word: round(value, 4) for word, value in margin.items()},  # bin/audit compares them with the data
    }


def _openings_part(model: Any, openings: Openings) -> dict[str, Any]:
    return {
        "source": openings.source,
        "texts": [model.processor.decode(ids) for ids in openings.refusal],
        "coverage": openings.coverage,
        "false_alarms": openings.false_alarms,
    }
