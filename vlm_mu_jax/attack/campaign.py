"""One whole attack: search, selection by real answers, and verification on questions the search never saw.

The score proposes, answers decide. The exhaustive search ranks every candidate by the refusal margin on the search
questions; the best few generate real answers to those same questions, and a judge picks the K shots. What is reported
comes from the verification questions alone, beside two controls: the unchanged questions, and null words drawn from the
middle of the score distribution, which pay the same price (one changed word, K tries) without being chosen.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.attack import one_word
from vlm_mu_jax.attack.one_word import Found, Progress, Target
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.words import open_with
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import metrics, statistics
from vlm_mu_jax.evaluation.answers import Question, answer_questions, judge_answers
from vlm_mu_jax.evaluation.answers_file import Condition
from vlm_mu_jax.evaluation.judges import Judge
from vlm_mu_jax.evaluation.metrics import Outcome
from vlm_mu_jax.model.decoder import Steer

POSITION = "question_start"
_SUCCESS = {"jailbreak": "answered", "over_refuse": "refused"}
_RATE = {"jailbreak": "asr", "over_refuse": "rr"}
_ATTACK = {"jailbreak": "one_word", "over_refuse": "over_refuse"}  # names in answers files
_CLAIM = (
    "exact over this vocabulary, position, set of search questions, these weights, this dtype and this score;"
    " no claim beyond that, in particular none about words outside the vocabulary"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """goals: of "jailbreak" and "over_refuse". shots: K. search_questions, verify_questions: at most so many per goal
    (None = all). shortlist: how many of the best-scored words are tried with real answers; `shots` skips that step.
    block: candidates per program. batch_size, max_new_tokens: of the answers."""

    goals: tuple[str, ...] = ("jailbreak", "over_refuse")
    mode: str = "swap"
    shots: int = 3
    search_questions: int | None = 32
    verify_questions: int | None = None
    shortlist: int = 12
    seed: int = 0
    block: int = 64
    batch_size: int = 32
    max_new_tokens: int = 64


@dataclasses.dataclass
class Campaign:
    """What every step needs. answers: file that collects all answers. model: what `vlm_mu_jax.load` returns.

    reference: the model before its safety tuning. Over-refusal words are then ranked by how much the tuning raised
    their margin, and words whose margin was positive before it (content: they say something harmful) are left out.
    """

    model: Any
    search: Records
    verify: Records
    judge: Judge
    answers: Path
    settings: Settings
    steer: Steer | None = None
    progress: Progress | None = None
    reference: Any = None

    def run(self, words: Sequence[str], openings: Openings) -> dict[str, Any]:
        """The content of attack.json. Raises InputError when a goal has no question to search or verify on."""
        use = self.settings
        found, chosen, tried, before = {}, {}, {}, None
        for goal in use.goals:
            asked = pick(self.search, goal, use.search_questions, use.seed)
            found[goal] = self._search(self.model, asked, goal, words, openings)
            if goal == "over_refuse" and self.reference is not None:
                before = self._search(self.reference, asked, goal, words, openings, steer=False)
            chosen[goal], tried[goal] = self._select(asked, goal, self._ranked(goal, found[goal], before))
        content = set() if before is None else {words[i] for i in np.flatnonzero(before.margins_W > 0)}
        winners = {word for some in chosen.values() for word in some} | content
        null = null_words(list(found.values()), winners, use.shots, use.seed)
        measured = {goal: self._measure(goal, chosen[goal], null) for goal in use.goals}
        result = self._result(words, openings, found, chosen, tried, null, measured)
        return result | {"content_words": sorted(content), "with_reference": self.reference is not None}

    def _search(
        self, model: Any, asked: Records, goal: str, words: Sequence[str], openings: Openings, steer: bool = True
    ) -> Found:
        use = self.settings
        return one_word.search(
            model.params, model.config, model.processor, target_of(model, asked), words, openings,
            goal=goal, mode=use.mode, top=max(use.shots, use.shortlist), block=use.block,
            steer=self.steer if steer else None, progress=self.progress,
        )  # fmt: skip

    @staticmethod
    def _ranked(goal: str, found: Found, before: Found | None) -> list[str]:
        """The best words; of over-refusal by the margin that safety tuning added, if the model before it is known."""
        if goal != "over_refuse" or before is None:
            return [found.words[i] for i in found.best]
        order = np.argsort(before.margins_W - found.margins_W, kind="stable")
        return [found.words[i] for i in order if before.margins_W[i] <= 0][: len(found.best)]

    def _select(self, asked: Records, goal: str, best: list[str]) -> tuple[list[str], dict[str, float | None]]:
        """The K words, and the success of every word that was tried, on the search questions."""
        if len(best) <= self.settings.shots:
            return best, dict.fromkeys(best)
        outcomes = self._outcomes(asked, goal, dict.fromkeys(best, _ATTACK[goal]), f"{goal} shortlist")
        rates = {word: metric.value or 0.0 for word, metric in metrics.by_word(outcomes, _SUCCESS[goal]).items()}
        ranked = sorted(best, key=lambda word: -rates[word])  # stable: the score decides between equals
        return ranked[: self.settings.shots], rates

    def _measure(self, goal: str, chosen: Sequence[str], null: Sequence[str]) -> dict[str, Any]:
        """Rates on the verification questions: unchanged, with each word, with any of K; the same for null words."""
        asked = pick(self.verify, goal, self.settings.verify_questions, self.settings.seed)
        label = _SUCCESS[goal]
        sides = {
            "original": self._outcomes(asked, goal, {None: "none"}, f"{goal} unchanged"),
            "words": self._outcomes(asked, goal, dict.fromkeys(chosen, _ATTACK[goal]), f"{goal} verification"),
            "null": self._outcomes(asked, goal, dict.fromkeys(null, "null_word"), f"{goal} null words"),
        }
        any_of_k = {side: _any_shot(outcomes, label) for side, outcomes in sides.items()}
        rates = {side: _rate(flags) for side, flags in any_of_k.items()}
        test = statistics.mcnemar(any_of_k["null"], any_of_k["words"])
        return {
            "n": len(asked),
            "original": rates["original"],
            "any_of_k": rates["words"],
            "any_of_k_null": rates["null"],
            "words_against_null": {"test": "exact McNemar", **dataclasses.asdict(test)},
            "by_shots": {str(k): _rate(_any_shot(sides["words"], label, k)) for k in range(1, len(chosen) + 1)},
            "words": _by_word(sides["words"], label),
            "null": _by_word(sides["null"], label),
            "irrelevant": _by_word(sides["words"], "irrelevant"),
        }

    def _outcomes(self, asked: Records, goal: str, words: Mapping[str | None, str], label: str) -> list[Outcome]:
        """Judged answers of all questions under all words (None = unchanged); words map to the attack's name."""
        items = []
        for shot, (word, attack) in enumerate(words.items()):
            for record in asked:
                text = record.question if word is None else open_with(record.question, word, self.settings.mode)
                where = None if word is None else POSITION
                condition = Condition(attack, where, word, shot, "none" if record.image is None else "own")
                items.append(Question(record.id, text, asked.image_path(record), condition))
        use = self.settings
        answers = answer_questions(
            self.model, items, self.answers, use.batch_size, use.max_new_tokens, self.steer, self.progress, label
        )
        judged = judge_answers(self.answers, answers, {self.judge.name: self.judge}, {r.id: r for r in asked})
        return metrics.outcomes(judged, self.judge.name)

    def _result(self, words, openings, found, chosen, tried, null, measured) -> dict[str, Any]:
        use = self.settings
        result: dict[str, Any] = {"schema": 1}
        for goal in one_word.GOALS:
            result[goal] = _entries(
                goal, chosen.get(goal, ()), found.get(goal), measured.get(goal, {}).get("words", {})
            )
            for entry in result[goal]:
                entry["ir"] = measured[goal]["irrelevant"][entry["word"]]
        result["null"] = [
            {"word": word, "goal": goal, _RATE[goal]: measured[goal]["null"][word]}
            for goal in use.goals
            for word in null
        ]
        result["any_of_k"] = {
            _RATE[goal]: {
                key: m[key] for key in ("original", "any_of_k", "any_of_k_null", "words_against_null", "by_shots")
            }
            for goal, m in measured.items()
        }
        result["search"] = {goal: _search_part(found[goal], tried[goal]) for goal in use.goals}
        return result | {
            "k": use.shots,
            "vocabulary_size": len(words),
            "positions": [POSITION],
            "mode": use.mode,
            "n_search": {goal: len(found[goal].original_Q) for goal in use.goals},
            "n_verify": {goal: measured[goal]["n"] for goal in use.goals},
            "flops": sum(f.flops for f in found.values()),
            "seed": use.seed,
            "judge": self.judge.name,
            "score": "refusal margin: log-odds that the answer starts with a refusal opening, mean over questions",
            "openings": _openings_part(self.model, openings),
            "claim": _CLAIM,
            "guarded": self.steer is not None,
            "dtype": str(jax.tree.leaves(self.model.params)[0].dtype),
            "max_new_tokens": use.max_new_tokens,
        }


def goal_kind(records: Records, goal: str) -> Records:
    """The questions a goal is about: unsafe ones for a jailbreak, safe ones for over-refusal.

    Unsafe questions about harmless images (VLGuard's safe_unsafes) are left out, as in the published attack success.
    """
    wanted = "unsafe" if goal == "jailbreak" else "safe"
    items = tuple(r for r in records if r.kind == wanted and r.source != "vlguard/safe_unsafes")
    if not items:
        raise InputError(
            f"{records.source}: holds no {wanted} question, which the goal {goal} needs; choose another --goal or file"
        )
    return dataclasses.replace(records, items=items)


def pick(records: Records, goal: str, most: int | None, seed: int) -> Records:
    """At most `most` questions for the goal, drawn by seed, in file order."""
    items = goal_kind(records, goal).items
    if most is not None and most < len(items):
        kept = set(random.Random(f"{seed}/{goal}").sample(range(len(items)), most))
        items = tuple(item for i, item in enumerate(items) if i in kept)
    return dataclasses.replace(records, items=items)


def halves(records: Records, seed: int) -> tuple[Records, Records]:
    """Two halves without a common image or base id, for a search and a verification on the same file."""
    groups = list(dict.fromkeys(_group(r) for r in records))
    random.Random(f"{seed}/halves").shuffle(groups)
    first = set(groups[: len(groups) // 2])
    parts = [tuple(r for r in records if (_group(r) in first) == side) for side in (True, False)]
    return tuple(dataclasses.replace(records, items=part) for part in parts)


def _group(record: Record) -> str:
    return record.image or record.id.partition("#")[0]


def target_of(model: Any, asked: Records) -> Target:
    """The search's view of some records: texts, and image features computed once."""
    images = tuple(int(record.image is not None) for record in asked)
    features = None
    if any(images):
        paths = [asked.image_path(record) for record in asked]
        pixels = [model.processor.pixels(path) if path else None for path in paths]
        blank = np.zeros_like(next(p for p in pixels if p is not None))  # never read: no placeholder points to it
        features = one_word.image_features(model.params, [blank if p is None else p for p in pixels], model.config)
    return Target(tuple(record.question for record in asked), images, features)


def null_words(found: Sequence[Found], winners: set[str], k: int, seed: int, band: float = 0.2) -> list[str]:
    """K words drawn by seed from the middle of the score distribution of every search, none of them a winner.

    The middle is the `band` of quantiles around the median (0.4 to 0.6), widened where it holds fewer than 2 K words.
    """
    words = found[0].words
    ranks = [np.argsort(np.argsort(f.margins_W, kind="stable")) for f in found]
    off_centre_W = np.max([np.abs((rank + 0.5) / len(words) - 0.5) for rank in ranks], axis=0)
    order = [int(i) for i in np.argsort(off_centre_W, kind="stable") if words[i] not in winners]
    middle = max(sum(off_centre_W[i] <= band / 2 for i in order), min(2 * k, len(order)))
    return [words[i] for i in random.Random(f"{seed}/null").sample(order[:middle], min(k, middle))]


def _any_shot(outcomes: Sequence[Outcome], label: str, shots: int | None = None) -> dict[str, bool]:
    """Question id -> whether any of its first `shots` answers has the label; ids with an open verdict are left out."""
    by_id: dict[str, list[str | None]] = {}
    for outcome in outcomes:
        if shots is None or outcome.shot < shots:
            by_id.setdefault(outcome.id, []).append(outcome.label)
    return {key: label in labels for key, labels in by_id.items() if label in labels or None not in labels}


def _rate(flags: Mapping[str, bool]) -> dict[str, Any]:
    return statistics.proportion(sum(flags.values()), len(flags)).to_dict()


def _by_word(outcomes: Sequence[Outcome], label: str) -> dict[str, dict]:
    return {word: metric.to_dict() for word, metric in metrics.by_word(outcomes, label).items()}


def _entries(goal: str, chosen: Sequence[str], found: Found | None, rates: Mapping[str, dict]) -> list[dict]:
    if found is None:
        return []
    margin = dict(zip(found.words, found.margins_W.tolist(), strict=True))
    change = float(found.original_Q.mean())
    return [{"word": w, "score": margin[w], "margin_change": margin[w] - change, _RATE[goal]: rates[w]} for w in chosen]


def _search_part(found: Found, tried: Mapping[str, float | None]) -> dict[str, Any]:
    margin = dict(zip(found.words, found.margins_W.tolist(), strict=True))
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    return {
        "original_margin": float(found.original_Q.mean()),
        "margin_quantiles": {str(q): float(np.quantile(found.margins_W, q)) for q in shares},
        "shortlist": [{"word": w, "score": margin[w], "success_on_search": rate} for w, rate in tried.items()],
        "flops": found.flops,
    }


def _openings_part(model: Any, openings: Openings) -> dict[str, Any]:
    return {
        "source": openings.source,
        "texts": [model.processor.decode(ids) for ids in openings.refusal],
        "coverage": openings.coverage,
        "false_alarms": openings.false_alarms,
    }
