"""One evaluation from questions to `results.json`: ask, judge, count, compare, write."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import answers_file, calibration, results
from vlm_mu_jax.evaluation.answers import Progress, answer_questions, judge_answers
from vlm_mu_jax.evaluation.answers_file import Answer
from vlm_mu_jax.evaluation.calibration import Agreement
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, judge_many
from vlm_mu_jax.evaluation.suite import Suite
from vlm_mu_jax.files.json_file import write_json

ANSWERS = "answers"
# What an answer depends on besides its own prompt and image: a workdir holds answers of one such setting only.
_FIXED = ("weights_sha256", "guard_sha256", "max_new_tokens", "defence", "defence_prompts")


@dataclasses.dataclass(frozen=True)
class RunName:
    """How a run is called in results and report: kind is base, sft, npo, rmu, guard, ..."""

    name: str
    kind: str
    seed: int | None


def ask(
    model: Any,
    suite: Suite,
    workdir: str | Path,
    batch_size: int,
    max_new_tokens: int,
    steer: Any = None,
    progress: Progress | None = None,
) -> dict[str, list[Answer]]:
    """The model's answers to every set of the suite, in `workdir/answers/SET.jsonl`; none is asked twice."""
    return {
        name: answer_questions(
            model,
            questions,
            _path(workdir, name),
            batch_size,
            max_new_tokens,
            steer,
            progress,
            label=name.replace("_", " "),
            only_these=True,
        )
        for name, questions in suite.sets.items()
    }


def recall(suite: Suite, workdir: str | Path) -> dict[str, list[Answer]]:
    """The answers that `workdir` already holds, for judging again without a model. InputError when some are missing."""
    found = {}
    for name, questions in suite.sets.items():
        stored = {(a.id, a.condition): a for a in answers_file.read(_path(workdir, name))}
        missing = sum((q.id, q.condition) not in stored for q in questions)
        if missing:
            raise InputError(
                f"{_path(workdir, name)}: {missing} of {len(questions)} answers are missing; run without --rejudge"
            )
        found[name] = [stored[q.id, q.condition] for q in questions]
    return found


def judge(
    sets: Mapping[str, list[Answer]],
    suite: Suite,
    workdir: str | Path,
    judges: Mapping[str, Judge],
    again: bool = False,
    progress: Progress | None = None,
) -> dict[str, list[Answer]]:
    """Labels all answers by all judges and keeps the labels in their files; `again` replaces labels that are there."""
    return {
        name: judge_answers(
            _path(workdir, name),
            answers,
            judges,
            suite.records[name],
            again,
            {(q.id, q.condition): q.image for q in suite.sets[name]},
            progress,
        )
        for name, answers in sets.items()
    }


def summarise(
    run: RunName,
    sets: Mapping[str, list[Answer]],
    suite: Suite,
    judge: Judge,
    max_new_tokens: int,
    provenance: Mapping[str, Any],
    baseline: str | Path | None = None,
    agreement: Mapping[str, Agreement] | None = None,
) -> dict[str, Any]:
    """The content of results.json. baseline: workdir of the run to compare with. agreement: of the judge with people,
    from `calibration.calibrate`: rates are then given corrected as well, beside those the judge saw."""
    metrics = results.compute(sets, suite.records, judge.name, judge.exact, max_new_tokens)
    entry = {
        **dataclasses.asdict(run),
        "judge": judge.name,
        "unjudged": results.unjudged(sets, judge.name),
        "judge_error": results.common_error(sets, judge.name),
        "judge_cost": judge.cost() if isinstance(judge, BatchJudge) else None,
        "metrics": metrics,
        "null_control": _null_control(sets, judge, agreement),
    }
    if agreement is not None:
        entry["calibration"] = {target: one.to_dict() for target, one in agreement.items()}
        entry["corrected"] = calibration.corrected(metrics, agreement)
    comparisons = []
    if baseline is not None:
        name, theirs = _baseline(Path(baseline), suite, judge)
        comparisons = results.compare(run.name, sets, name, theirs, suite.records, judge.name, judge.exact)
    return {"schema": results.SCHEMA, "runs": [entry], "comparisons": comparisons, "provenance": dict(provenance)}


def _null_control(sets: Mapping[str, list[Answer]], judge: Judge, agreement: Mapping[str, Agreement] | None) -> Any:
    """`results.null_control`, and what the judge's errors alone would give with as many tries (None if not known)."""
    found = results.null_control(sets, judge.name)
    if found is None:
        return None
    return found | {"by_judge_errors": calibration.null_expectation(agreement or {}, found["shots"])}


def open_workdir(workdir: str | Path, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Writes `config.json` and `provenance.json`.

    InputError when the folder holds answers made with other weights, another guard or another token limit.
    """
    path = Path(workdir) / "config.json"
    if path.exists() and any((Path(workdir) / ANSWERS).glob("*.jsonl")):
        old = _read_object(path)
        for name in _FIXED:
            if old.get(name) != settings.get(name):
                raise InputError(
                    f"--workdir={workdir}: its answers were made with another {_WORDS[name]}; use another folder"
                )
    write_json(path, settings)
    write_json(path.with_name("provenance.json"), provenance)


def read_workdir(workdir: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and provenance that `open_workdir` wrote. InputError when the folder has none."""
    return _read_object(Path(workdir) / "config.json"), _read_object(Path(workdir) / "provenance.json")


def write_results(workdir: str | Path, content: Mapping[str, Any]) -> None:
    """Writes `results.json`."""
    write_json(Path(workdir) / "results.json", content)


_WORDS = {
    "weights_sha256": "model",
    "guard_sha256": "guard",
    "max_new_tokens": "--max_new_tokens",
    "defence": "defence",
    "defence_prompts": "wording of the defence",
}


def _path(workdir: str | Path, name: str) -> Path:
    return Path(workdir) / ANSWERS / f"{name}.jsonl"


def _baseline(workdir: Path, suite: Suite, judge: Judge) -> tuple[str, dict[str, list[Answer]]]:
    """The baseline's name and its answers to questions of this suite, labelled by this run's judge (in memory only)."""
    stored = _read_object(workdir / "results.json")
    try:
        name = stored["runs"][0]["name"]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{workdir / 'results.json'}: names no run; make it with bin/eval") from None
    sets = {}
    for set_name, records in suite.records.items():
        answers = [a for a in answers_file.read(_path(workdir, set_name)) if a.id in records]
        images = {(q.id, q.condition): q.image for q in suite.sets.get(set_name, ())}
        shown = [(a, images.get((a.id, a.condition))) for a in answers]
        labels = judge_many(judge, [Case(a.question, a.answer, records[a.id], image, a.image_id) for a, image in shown])
        labelled = zip(answers, labels, strict=True)
        sets[set_name] = [dataclasses.replace(a, labels={judge.name: label.to_dict()}) for a, label in labelled]
    if not any(sets.values()):
        raise InputError(f"--baseline={workdir}: shares no question with this run; evaluate it on the same data")
    return name, {key: answers for key, answers in sets.items() if answers}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a folder that bin/eval wrote") from None
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error}); run bin/eval again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object; give a folder that bin/eval wrote")
    return content
