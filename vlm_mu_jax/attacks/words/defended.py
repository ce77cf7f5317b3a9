"""Words searched through a defence, whatever it is made of: wrapper, guard and weights.

1. The exhaustive search (`words.search`) ranks every word on the defence's model without the defence, and once more
   through its guard, where the guard leaves candidates a prefix to share.
2. The best words of each ranking are tried with real answers through the whole defence, on the search requests with
   their own images. Those under which most requests are answered are the attack.

The search requests are those of `text_harm_validation.json`, which `evaluation.defences` does not ask.
"""

import dataclasses
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_mu_jax.attacks.margin import openings as openings_lib
from vlm_mu_jax.attacks.margin.guards import search_steer
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.questions import pick, search_questions
from vlm_mu_jax.attacks.words.search import SearchOptions, search
from vlm_mu_jax.attacks.words.vocabulary import PIECES, candidate_words
from vlm_mu_jax.data import questions as question_files
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.placing import open_with
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import metrics as m
from vlm_mu_jax.evaluation.answers.answers_file import Condition
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import runs, wrappers
from vlm_mu_jax.evaluation.defences.comparison import DefenceOptions, DefendedModels
from vlm_mu_jax.evaluation.defences.runs import Defence
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, JudgeOptions, choose
from vlm_mu_jax.evaluation.judging import judge_suite
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.questions.suite import AttackWords, Suite
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import open_guard
from vlm_mu_jax.storage import model_folder
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model

SEARCHED = "text_harm_validation.json"


@dataclasses.dataclass(frozen=True)
class DefenceSearch:
    """How words are searched through a defence.

    Attributes:
      candidates: as in `words.one_word.WordOptions`.
      pool: best words of each ranking that are tried through the defence.
      requests: search requests.
    """

    candidates: str = PIECES
    pool: int = 16
    requests: int = 24


def defended_words(
    models: DefendedModels,
    data: str | Path,
    defences: Sequence[str],
    options: DefenceOptions = DefenceOptions(),
    how: DefenceSearch = DefenceSearch(),
    *,
    judge: str | JudgeOptions | Judge | BatchJudge | None = None,
    workdir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, AttackWords]:
    """For each defence by name the `options.shots` words that break it most often on the search requests.

    Args:
      models, data, defences, options, judge: as in `compare_defences`.
      workdir: keeps WORKDIR/adaptive/NAME.json, so that a defence is not searched twice.

    Raises:
      InputError: an unknown defence, a missing folder, or no `text_harm_validation.json`.
    """
    chosen = runs.parse(defences, models.guards)
    counted = choose(judge, data, workdir).counted
    records = _records(Path(data), how, options.seed)
    found: dict[str, AttackWords] = {}
    model, loaded, ranked = None, None, {}
    for defence in sorted(chosen, key=lambda one: one.unlearned):  # one model in memory at a time
        folder, guard = models.unlearned if defence.unlearned else models.checkpoint, models.guard_of(defence)
        if loaded != folder:
            model, loaded, ranked = model_folder.load(model_folder.find(folder)), folder, {}
        search_in = _DefenceTrial(model, defence, guard, records, Path(data), options, how, counted, progress)
        path = None if workdir is None else Path(workdir) / "adaptive" / f"{defence.name}.json"
        rates = search_in.kept(path)
        if rates is None:
            for name in dict.fromkeys((None, guard)):
                if name not in ranked:
                    ranked[name] = search_in.ranking(name)
            rates = search_in.tried(list(dict.fromkeys([*ranked[None], *ranked[guard]])))
            search_in.keep(path, rates)
        best = sorted(rates, key=lambda word: -rates[word])[
            : options.shots
        ]  # stable: the margin decides between equals
        if say:
            say(f"{defence.name}: searched words {', '.join(f'{w} ({100 * rates[w]:.0f} %)' for w in best)}")
        found[defence.name] = AttackWords(jailbreak=tuple(best))
    return found


def _records(data: Path, how: DefenceSearch, seed: int) -> Records:
    if not (data / SEARCHED).exists():
        raise InputError(f"{data}: has no {SEARCHED}, the requests that words are searched on; leave out --adaptive")
    return pick(dialogues.at_last(question_files.read(data / SEARCHED)), "jailbreak", how.requests, seed)


@dataclasses.dataclass(frozen=True)
class _DefenceTrial:
    """One defence under search."""

    model: Model
    defence: Defence
    guard: str | Path | None
    records: Records
    data: Path
    options: DefenceOptions
    how: DefenceSearch
    judge: Judge | BatchJudge
    progress: Progress | None

    def ranking(self, guard: str | Path | None) -> list[str]:
        """The best words by margin on the model, through a guard if one is given. None where it cannot be searched."""
        steer = open_guard(self.model, guard)[0]
        try:
            through = None if steer is None else search_steer(steer, str(guard))
        except InputError:
            return []
        processor, file = self.model.processor, self.data / "train.json"
        safety = readers.read(file, check_images=False) if file.exists() else self.records
        found = search(
            self.model,
            search_questions(self.records),
            candidate_words(self.how.candidates, processor.tokenizer),
            SearchTarget(openings_lib.of_records(safety, processor), "jailbreak", through),
            SearchOptions(top=self.how.pool),
        )["question_start"]
        return [found.words[i] for i in found.best]

    def tried(self, words: Sequence[str]) -> dict[str, float]:
        """Share of the search requests that the defended model answers behind each word, in the order of the words."""
        asked = [
            Question.of(
                self.records,
                record,
                Condition(attack="one_word", word=word, shot=shot, image="own" if record.images else "none"),
                open_with(record.question, word),
            )
            for shot, word in enumerate(words)
            for record in self.records
        ]
        suite = Suite({"adaptive": asked}, {"adaptive": {record.id: record for record in self.records}})
        steer = open_guard(self.model, self.guard)[0]
        answering = AnswerOptions(self.options.batch_size, self.options.max_new_tokens, steer, self.progress)
        made, _ = wrappers.defend_suite(self.model, suite, self.defence.wrapper, None, answering, self.options.wording)
        answers = judge_suite(made, suite, {self.judge.name: self.judge}, progress=self.progress)["adaptive"]
        rates = m.by_word(m.outcomes(answers, self.judge.name), "answered")
        return {word: rates[word].value or 0.0 for word in words}

    def kept(self, path: Path | None) -> dict[str, float] | None:
        """What the same search found before."""
        if path is None or not path.exists():
            return None
        content = read_json(path)
        return content["tried"] if content.get("identity") == self._identity() else None

    def keep(self, path: Path | None, rates: dict[str, float]) -> None:
        """Writes what `kept` reads."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"identity": self._identity(), "tried": rates})

    def _identity(self) -> dict[str, Any]:
        guard = open_guard(self.model, self.guard)[1]
        return {
            "version": version("vlm_mu_jax"),
            "weights": weights_hash(self.model.params),
            "guard": guard and guard["sha256"],
            "requests": [record.id for record in self.records],
            "data": self.records.sha256,
            "how": dataclasses.asdict(self.how),
            "judge": self.judge.name,
            "max_new_tokens": self.options.max_new_tokens,
            **wrappers.settings(self.defence.wrapper, self.options.wording),
        }
