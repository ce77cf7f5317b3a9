"""A model's answers to a suite, with what they were made with: the settings and the provenance of a workdir."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import provenance
from vlm_mu_jax.evaluation import workdir as workdirs
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.defences import wrappers
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, JudgeOptions
from vlm_mu_jax.evaluation.judges.calibration import Labelled
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.evaluation.results.summary import Answered
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import Guard, open_guard
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.evaluate import EvaluateOptions


@dataclasses.dataclass(frozen=True)
class Making:
    """How answers are made, and what is written down about it. Fields: as the arguments of `evaluate`."""

    options: "EvaluateOptions"
    judge: str | JudgeOptions | Judge | BatchJudge | None = None
    guard: Guard | str | Path | None = None
    calibrate: Sequence[Labelled] | str | Path = ()
    progress: Progress | None = None


def answered(
    model: Model, suite: Suite, making: Making, workdir: str | Path | None, is_share: bool = False
) -> Answered:
    """The model's answers to the suite; those that `workdir` holds are not generated again.

    Args:
      is_share: the suite is a share of what is asked.

    Raises:
      InputError: the workdir's answers were made otherwise, or the guard does not belong to the model.
    """
    options, guard = making.options, making.guard
    if isinstance(guard, Guard):
        if workdir is not None:
            raise InputError("a workdir keeps the guard's hash beside its answers: save the guard and give its folder")
        steer, identity = guard.steer(model), {"folder": None, "sha256": None}
    else:
        steer, identity = open_guard(model, guard)
    weights = weights_hash(model.params)
    origin = provenance.collect(model, weights, suite.folder or options.data_root, suite.files, identity)
    if workdir is not None:
        hashes = {"weights_sha256": weights, "guard_sha256": identity and identity["sha256"]}
        defence = wrappers.settings(options.defence, options.wording)
        workdirs.open_workdir(workdir, {**_settings(making, suite, model), **hashes, **defence}, origin)
    answering = AnswerOptions(options.batch_size, options.max_new_tokens, steer, making.progress, is_share)
    answers, said = wrappers.defend_suite(model, suite, options.defence, workdir, answering, options.wording)
    return Answered(answers, options.max_new_tokens, origin, said)


def _settings(making: Making, suite: Suite, model: Model) -> dict[str, Any]:
    """The content of `config.json` but for the hashes and the defence, under the names of the flags of bin/eval."""
    options, judge, guard, calibrate = making.options, making.judge, making.guard, making.calibrate
    if isinstance(judge, str | JudgeOptions | None):
        judging = (judge if isinstance(judge, JudgeOptions) else JudgeOptions(judge)).settings()
    else:
        judging = {"judge": judge.name}
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    values = {name: value for name, value in values.items() if name not in ("defence", "wording")}
    values["columns"] = dict(options.columns)
    words = {name: list(some) for name, some in dataclasses.asdict(suite.words).items() if name != "turn"}
    values["turn"] = suite.words.turn
    return {
        "checkpoint": str(model.folder),
        "data": _text(suite.folder),
        **values,
        "data_root": _text(options.data_root),
        "guard": None if isinstance(guard, Guard) else _text(guard),
        **judging,
        "calibrate": _text(calibrate) if isinstance(calibrate, str | Path) else None,
        "attack_words": words,
    }


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
