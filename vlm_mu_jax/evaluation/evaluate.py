"""One evaluation from questions to `results.json`: ask, judge, count, compare, write."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.suite_answers import SuiteAnswers, answers_path
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, calibration
from vlm_mu_jax.evaluation.judges.calibration import Agreement
from vlm_mu_jax.evaluation.judging import judge_answers
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.evaluation.results import rates
from vlm_mu_jax.evaluation.workdir import read_object


@dataclasses.dataclass(frozen=True)
class RunName:
    """How a run is called in results and report: kind is base, sft, npo, rmu, guard, ..."""

    name: str
    kind: str
    seed: int | None


def summarise(
    run: RunName,
    sets: SuiteAnswers,
    suite: Suite,
    judge: Judge,
    max_new_tokens: int,
    provenance: Mapping[str, Any],
    baseline: str | Path | None = None,
    agreement: Mapping[str, Agreement] | None = None,
) -> dict[str, Any]:
    """The content of results.json. baseline: workdir of the run to compare with. agreement: of the judge with people,
    from `calibration.calibrate`: rates are then given corrected as well, beside those the judge saw."""
    metrics = rates.compute(sets, suite.records, judge.name, judge.exact, max_new_tokens)
    entry = {
        **dataclasses.asdict(run),
        "judge": judge.name,
        "unjudged": rates.unjudged(sets, judge.name),
        "judge_error": rates.common_error(sets, judge.name),
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
        comparisons = rates.compare(run.name, sets, name, theirs, suite.records, judge.name, judge.exact)
    return {"schema": rates.SCHEMA, "runs": [entry], "comparisons": comparisons, "provenance": dict(provenance)}


def _null_control(sets: SuiteAnswers, judge: Judge, agreement: Mapping[str, Agreement] | None) -> Any:
    """`rates.null_control`, and what the judge's errors alone would give with as many tries (None if not known)."""
    found = rates.null_control(sets, judge.name)
    if found is None:
        return None
    return found | {"by_judge_errors": calibration.null_expectation(agreement or {}, found["shots"])}


def _baseline(workdir: Path, suite: Suite, judge: Judge) -> tuple[str, SuiteAnswers]:
    """The baseline's name and its answers to questions of this suite, labelled by this run's judge (in memory only)."""
    stored = read_object(workdir / "results.json")
    try:
        name = stored["runs"][0]["name"]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{workdir / 'results.json'}: names no run; make it with bin/eval") from None
    sets = {}
    for set_name, records in suite.records.items():
        answers = [a for a in answers_file.read(answers_path(workdir, set_name)) if a.id in records]
        bare = [dataclasses.replace(a, labels={}) for a in answers]
        sets[set_name] = judge_answers(bare, {judge.name: judge}, records, images=suite.images(set_name))
    if not any(sets.values()):
        raise InputError(f"--baseline={workdir}: shares no question with this run; evaluate it on the same data")
    return name, {key: answers for key, answers in sets.items() if answers}
