"""The questions that are asked while a model trains: drawn once, answered by the weights as they are at each step."""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.activations import on_mesh_of
from vlm_mu_jax.storage.model_folder import Model
from vlm_mu_jax.training.evaluation import EvaluationPlan

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.questions.suite import Suite


@dataclasses.dataclass(frozen=True)
class QuestionOptions:
    """Which questions are asked, and how they are answered and judged.

    Attributes:
      data: folder of the questions, as `bin/eval` takes it.
      subset: SUBSET.json is asked. Keep the test questions out of the choice of a checkpoint.
      attack_words: attack.json of `bin/attack`; the questions are also asked with its words. "" for none.
      questions: questions of each kind, drawn by the seed. Every opening word of openings.json multiplies them.
      judge: whose verdict counts. "" takes the best one that the data allow: oracle, else refusal.
      batch_size: questions answered at a time.
      max_new_tokens: longest answer, in tokens.
    """

    data: str
    subset: str = "validation"
    attack_words: str = ""
    questions: int = 32
    judge: str = ""
    batch_size: int = 16
    max_new_tokens: int = 64

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "QuestionOptions":
        """From `config.eval`, whose keys of the same names these are."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})


class EvaluationQuestions:
    """Unsafe, harmless and utility questions, the same at every step, so that their programs are compiled once.

    Called with (step, parameters, folder) it returns `evaluation.results.frontier.rates`. Answers stay in
    FOLDER/STEP/answers, or nowhere when the folder is None.

    In a job of several processes all call it, with their shards of the parameters. All generate the same answers
    together, and all read the questions' images. Process 0 judges; the others get {}.
    """

    def __init__(self, model: Model, options: QuestionOptions, seed: int) -> None:
        """Reads the questions and opens the judge.

        Args:
          model: configuration, processor and folder are used, the parameters are not.
          options: which questions, and how they are answered.
          seed: draws the questions.

        Raises:
          InputError: a file is missing or bad, or holds no unsafe or no harmless questions.
        """
        from vlm_mu_jax.evaluation import judges

        self._model, self._options = dataclasses.replace(model, params={}), options
        self.suite = _suite(options, seed)
        name, data = options.judge, options.data
        self.judge = judges.get(name, data) if name else next(iter(judges.available(data).values()))

    @classmethod
    def from_folder(
        cls, checkpoint: str | Path, options: QuestionOptions, seed: int, template: str | None = None
    ) -> "EvaluationQuestions":
        """For the model of a folder, whose weights are not read. template: of the prompts; None takes the model's."""
        from vlm_mu_jax.data.prompts import Processor
        from vlm_mu_jax.storage import model_folder

        folder = model_folder.find(checkpoint)
        cfg = model_folder.read_config(folder)
        stored = model_folder.read_settings(folder)
        processor = Processor.from_folder(folder, cfg, template or stored["template"], stored.get("system"))
        return cls(Model({}, cfg, processor, folder), options, seed)

    def __call__(self, step: int, params: Mapping[str, Any], folder: Path | None) -> dict[str, float]:
        from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
        from vlm_mu_jax.evaluation.answers.suite_answers import answer_suite
        from vlm_mu_jax.evaluation.judging import judge_suite
        from vlm_mu_jax.evaluation.results import frontier

        model = dataclasses.replace(self._model, params=params)
        options = AnswerOptions(self._options.batch_size, self._options.max_new_tokens)
        with _empty(None if folder is None else folder / f"{step:06d}") as place:
            with on_mesh_of(params):
                answers = answer_suite(model, self.suite, place, options)
            if not distributed.first():
                return {}
            answers = judge_suite(answers, self.suite, {self.judge.name: self.judge}, place)
            return frontier.rates(answers, self.suite.records, self.judge.name)


@contextmanager
def _empty(folder: Path | None) -> Iterator[Path]:
    """Where this process keeps its answers: process 0 in `folder`, the others, who make the same ones, for now only.

    No process may hold answers already, because all must ask the same batches.
    """
    if folder is not None and distributed.first():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before this result was kept
        yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _suite(options: QuestionOptions, seed: int) -> "Suite":
    """The questions that `frontier.rates` counts."""
    from vlm_mu_jax.evaluation.questions import suite
    from vlm_mu_jax.evaluation.results import frontier

    if not options.data:
        raise InputError("config.eval.data is not set; name the folder with the questions of the evaluation")
    words = suite.read_attack_words(options.attack_words) if options.attack_words else suite.AttackWords()
    built = suite.build(options.data, options.subset, suite.Asking(words, limit=options.questions, seed=seed))
    missing = {"unsafe_before", "harmless_before"} - built.sets.keys()
    if missing:
        kinds = " and ".join(sorted(name.removesuffix("_before") for name in missing))
        raise InputError(f"{options.data}/{options.subset}.json: holds no {kinds} questions; the evaluation needs both")
    return suite.only(built, [name for name in built.sets if name in frontier.SETS])


def questions_of(settings: Mapping[str, Any]) -> EvaluationQuestions:
    """The questions that `config.eval` describes.

    Raises:
      InputError: bad settings.
    """
    init, options = settings["model"]["init"], QuestionOptions.of(settings["eval"])
    if not init:
        raise InputError("config.model.init is not set; give the model folder to start from")
    return EvaluationQuestions.from_folder(init, options, settings["seed"], settings["model"]["template"])


def evaluation_of(
    settings: Mapping[str, Any], workdir: Path | None, questions: EvaluationQuestions | None = None
) -> EvaluationPlan | None:
    """The evaluation that `config.eval` asks for, or None when it asks for none.

    Args:
      settings: a checked config.
      workdir: of the run; answers go to its folder evaluations/.
      questions: those of another run of the same sweep; by default they are read.
    """
    wanted = settings["eval"]
    if not wanted["every"]:
        return None
    ask = questions or questions_of(settings)
    folder = None if workdir is None else workdir / "evaluations"
    return EvaluationPlan(
        lambda step, params: ask(step, params, folder), wanted["every"], wanted["best"], wanted["patience"]
    )
