"""The evaluation that runs inside training: a few fixed questions, answered by the weights as they are at that step."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.parallel import distributed
from vlm_mu_jax.parallel.activations import on_mesh_of


class Questions:
    """Unsafe, harmless and utility questions, the same at every step, so that the answers' programs are compiled once.

    Called with (step, parameters, folder) it gives `evaluation.frontier.rates`; answers stay in FOLDER/STEP/answers.
    In a job of several processes all call it, with their shards of the parameters: all generate the same answers
    together, and all read the questions' images. Process 0 judges; the others get {}.
    """

    def __init__(
        self, checkpoint: str | Path, settings: Mapping[str, Any], seed: int, template: str | None = None
    ) -> None:
        """settings: as `training.settings.defaults` has them under `eval`. seed: draws the questions. template: the
        conversation template, None = the model folder's.

        Raises InputError when a file is missing or bad, or holds no unsafe or no harmless questions.
        """
        from vlm_mu_jax.data.prompts import Processor
        from vlm_mu_jax.evaluation import judges
        from vlm_mu_jax.storage import model_folder

        self._path, self._settings = model_folder.find(checkpoint), settings
        self._cfg = model_folder.read_config(self._path)
        template = template or model_folder.read_settings(self._path)["template"]
        self._processor = Processor.from_folder(self._path, self._cfg, template=template)
        self.suite = _suite(settings, seed)
        name, data = settings["judge"], settings["data"]
        self.judge = judges.get(name, data) if name else next(iter(judges.available(data).values()))

    def __call__(self, step: int, params: Mapping[str, Any], folder: Path) -> dict[str, float]:
        from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
        from vlm_mu_jax.evaluation.answers.suite_answers import answer_suite
        from vlm_mu_jax.evaluation.judging import judge_suite
        from vlm_mu_jax.evaluation.results import frontier
        from vlm_mu_jax.storage.model_folder import Model

        model = Model(params, self._cfg, self._processor, self._path)
        options = AnswerOptions(self._settings["batch_size"], self._settings["max_new_tokens"])
        with _empty(folder / f"{step:06d}") as place:
            with on_mesh_of(params):
                answers = answer_suite(model, self.suite, place, options)
            if not distributed.first():
                return {}
            answers = judge_suite(answers, self.suite, {self.judge.name: self.judge}, place)
            return frontier.rates(answers, self.suite.records, self.judge.name)


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """Where this process keeps its answers: process 0 in `folder`, the others, who make the same ones, for now only.

    None may hold answers already: all processes must ask the same batches.
    """
    if distributed.first():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before this result was kept
        yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _suite(settings: Mapping[str, Any], seed: int) -> Any:
    """The questions that `frontier.rates` counts."""
    from vlm_mu_jax.evaluation.questions import suite
    from vlm_mu_jax.evaluation.results import frontier

    data, words = settings["data"], settings["attack_words"]
    if not data:
        raise InputError("config.eval.data is not set; name the folder with the questions of the evaluation")
    built = suite.build(
        data,
        settings["subset"],
        suite.read_attack_words(words) if words else suite.AttackWords(),
        limit=settings["questions"],
        seed=seed,
    )
    missing = {"unsafe_before", "harmless_before"} - built.sets.keys()
    if missing:
        kinds = " and ".join(sorted(name.removesuffix("_before") for name in missing))
        raise InputError(f"{data}/{settings['subset']}.json: holds no {kinds} questions; the evaluation needs both")
    return suite.only(built, [name for name in built.sets if name in frontier.SETS])


def questions_for(config: Mapping[str, Any]) -> Questions:
    """The questions that `config.eval` describes. Raises InputError: bad settings."""
    if not config["model"]["init"]:
        raise InputError("config.model.init is not set; give the model folder to start from")
    return Questions(config["model"]["init"], config["eval"], config["seed"], config["model"]["template"])


def for_training(config: Mapping[str, Any], workdir: str | Path, questions: Questions | None = None) -> Any:
    """The `training.best.Evaluation` that `config.eval` asks for; None when it asks for none. Prints every result.

    questions: those of another run of the same sweep; by default they are read.
    """
    from vlm_mu_jax.training.best import Evaluation

    wanted = config["eval"]
    if not wanted["every"]:
        return None
    ask = questions or questions_for(config)

    def evaluate(step: int, params: Mapping[str, Any]) -> dict[str, float]:
        values = ask(step, params, Path(workdir) / "evaluations")
        if distributed.first():
            print(line(step, config["steps"], values), file=sys.stderr, flush=True)
        return values

    return Evaluation(evaluate, wanted["every"], wanted["best"], wanted["patience"])


def line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """What is said about one evaluation."""
    names = {"asr": "ASR", "harmless_right": "harmless right", "rr": "harmless refused", "utility": "utility"}
    shown = [f"{title} {100 * values[name]:.0f} %" for name, title in names.items() if name in values]
    if "frontier" in values:
        shown.append(f"frontier {values['frontier']:.3f}")
    return f"evaluation after step {step}/{steps}  " + "  ".join(shown)
