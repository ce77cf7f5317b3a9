"""Words searched through a defence, whatever it is made of: wrapper, guard and weights.

1. The exhaustive search (`words.search`) ranks every word on the undefended model, on the defence's own weights where
   they are others, and through its guard, where the guard leaves candidates a prefix to share. The margin of an
   unlearned model alone misleads: words that make it say nothing sensible raise it as well.
2. The best words of each ranking are tried with real answers through the whole defence, on the search requests with
   their own images. Those under which most requests are answered are the attack.

The search requests are those of `text_harm_validation.json`, which `evaluation.defences` does not ask.
"""

import dataclasses
import functools
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
    load = functools.cache(lambda folder: model_folder.load(model_folder.find(folder)))
    ranking = functools.cache(lambda folder, guard: _ranking(load(folder), guard, records, Path(data), how))
    found: dict[str, AttackWords] = {}
    for defence in chosen:
        folder, guard = models.unlearned if defence.unlearned else models.checkpoint, models.guard_of(defence)
        on = list(dict.fromkeys([(models.checkpoint, None), (folder, None), (folder, guard)]))
        trial = _DefenceTrial(load(folder), defence, guard, records, options, counted, progress)
        identity = trial.identity() | {
            "how": dataclasses.asdict(how),
            "ranked_on": [weights_hash(load(at).params) for at, _ in on],
        }
        path = None if workdir is None else Path(workdir) / "adaptive" / f"{defence.name}.json"
        rates = _kept(path, identity)
        if rates is None:
            rates = trial.tried(list(dict.fromkeys(word for one in on for word in ranking(*one))))
            _keep(path, identity, rates)
        best = sorted(rates, key=lambda word: -rates[word])[: options.shots]  # stable: the margin decides
        if say:
            say(f"{defence.name}: searched words {', '.join(f'{w} ({100 * rates[w]:.0f} %)' for w in best)}")
        found[defence.name] = AttackWords(jailbreak=tuple(best))
    return found


def _records(data: Path, how: DefenceSearch, seed: int) -> Records:
    if not (data / SEARCHED).exists():
        raise InputError(f"{data}: has no {SEARCHED}, the requests that words are searched on; leave out --adaptive")
    return pick(dialogues.at_last(question_files.read(data / SEARCHED)), "jailbreak", how.requests, seed)


def _ranking(model: Model, guard: str | Path | None, records: Records, data: Path, how: DefenceSearch) -> Sequence[str]:
    """The best words by margin on a model, through a guard if one is given. None where that cannot be searched."""
    steer = open_guard(model, guard)[0]
    try:
        through = None if steer is None else search_steer(steer, str(guard))
    except InputError:
        return ()
    processor, file = model.processor, data / "train.json"
    safety = readers.read(file, check_images=False) if file.exists() else records
    found = search(
        model,
        search_questions(records),
        candidate_words(how.candidates, processor.tokenizer),
        SearchTarget(openings_lib.of_records(safety, processor), "jailbreak", through),
        SearchOptions(top=how.pool),
    )["question_start"]
    return [found.words[i] for i in found.best]


def _kept(path: Path | None, identity: dict[str, Any]) -> dict[str, float] | None:
    """What the same search found before."""
    if path is None or not path.exists():
        return None
    content = read_json(path)
    return content["tried"] if content.get("identity") == identity else None


def _keep(path: Path | None, identity: dict[str, Any], rates: dict[str, float]) -> None:
    """Writes what `_kept` reads."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "tried": rates})


@dataclasses.dataclass(frozen=True)
class _DefenceTrial:
    """One defence under search."""

    model: Model
    defence: Defence
    guard: str | Path | None
    records: Records
    options: DefenceOptions
    judge: Judge | BatchJudge
    progress: Progress | None

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

    def identity(self) -> dict[str, Any]:
        """What makes its rates its own."""
        guard = open_guard(self.model, self.guard)[1]
        return {
            "version": version("vlm_mu_jax"),
            "weights": weights_hash(self.model.params),
            "guard": guard and guard["sha256"],
            "requests": [record.id for record in self.records],
            "data": self.records.sha256,
            "judge": self.judge.name,
            "max_new_tokens": self.options.max_new_tokens,
            **wrappers.settings(self.defence.wrapper, self.options.wording),
        }
