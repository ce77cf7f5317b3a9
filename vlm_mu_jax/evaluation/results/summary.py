"""What one evaluation found: numbers, controls, and tests against a baseline."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.suite_answers import SuiteAnswers, answers_path
from vlm_mu_jax.evaluation.judges import BatchJudge, Judge, calibration
from vlm_mu_jax.evaluation.judging import judge_answers
from vlm_mu_jax.evaluation.questions.suite import Suite
from vlm_mu_jax.evaluation.results import dialogue_rates, rates
from vlm_mu_jax.evaluation.statistics import Metric
from vlm_mu_jax.formats.reading import read_file
from vlm_mu_jax.formats.results import ResultsFile


@dataclasses.dataclass(frozen=True)
class RunName:
    """How results and report call a run; kind is base, sft, npo, rmu, guard, ..."""

    name: str
    kind: str
    seed: int | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. `to_dict()` is the content of `results.json`.

    Attributes:
      name, kind, seed: how the run is called.
      judge: the name of the judge whose labels count.
      metrics: by name, at any depth; a metric is {"value", "n", "k", "low", "high"} with fractions in 0..1 and the 95 %
        interval. See `metric`.
      unjudged: answers without a verdict, {"errors", "abstained"}, and "too_long" where questions were longer than the
        model's positions. They left the denominators.
      judge_error: what most of these errors said. judge_cost: what a judging model used.
      null_control: the attack's words against as many neutral words. dialogue_tests: the same by turn of dialogues.
      comparisons: exact McNemar tests against the baseline.
      provenance: weights, data, code, packages, device.
      calibration, corrected: agreement of the judge with people, and rates corrected for its errors.
      defence: the defence's name, its cost, and what it counted about itself.
      answers: every judged answer, by set. Not part of `results.json`.
      suite: the questions. Not part of `results.json`.
    """

    name: str
    kind: str
    seed: int | None
    judge: str
    metrics: Mapping[str, Any]
    unjudged: Mapping[str, int]
    judge_error: str | None
    judge_cost: Mapping[str, Any] | None
    null_control: Mapping[str, Any] | None
    comparisons: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None
    corrected: Mapping[str, Any] | None = None
    defence: Mapping[str, Any] | None = None
    dialogue_tests: Mapping[str, Any] | None = None
    answers: SuiteAnswers = dataclasses.field(default_factory=dict, repr=False)
    suite: Suite = dataclasses.field(default_factory=Suite, repr=False)

    def metric(self, name: str) -> Metric:
        """One metric, such as "asr_after" or "gap/blank_image/asr". KeyError for what was not measured."""
        found: Any = self.metrics
        for part in name.split("/"):
            found = found[part]
        return Metric(**found)

    def to_dict(self) -> dict[str, Any]:
        """The content of `results.json`."""
        optional = ("calibration", "corrected", "defence", "dialogue_tests")
        names = ("name", "kind", "seed", "judge", "unjudged", "judge_error", "judge_cost", "metrics", "null_control")
        entry = {name: getattr(self, name) for name in names}
        entry |= {name: getattr(self, name) for name in optional if getattr(self, name) is not None}
        if dialogue_rates.AFTER in self.answers:
            entry["attack_turn"] = self.suite.words.turn
        return {
            "schema": rates.SCHEMA,
            "runs": [entry],
            "comparisons": list(self.comparisons),
            "provenance": dict(self.provenance),
        }


@dataclasses.dataclass(frozen=True)
class Answered:
    """Answers with what they were made with.

    max_new_tokens: the bound under which they were generated. origin: the content of `provenance.json`. defence: what
    the defence had to say, None for stored answers.
    """

    answers: SuiteAnswers
    max_new_tokens: int
    origin: Mapping[str, Any]
    defence: Mapping[str, Any] | None = None


def summarise(
    run: RunName,
    answers: SuiteAnswers,
    suite: Suite,
    judge: Judge | BatchJudge,
    made: Answered,
    agreement: Mapping[str, calibration.Agreement] | None = None,
) -> Evaluation:
    """The numbers of judged answers.

    Args:
      agreement: of the judge with people, from `calibration.calibrate`. Rates are then given corrected as well.
    """
    metrics = rates.compute(answers, suite.records, judge.name, judge.exact, made.max_new_tokens)
    control = rates.null_control(answers, judge.name)
    if control is not None:
        control |= {"by_judge_errors": calibration.null_expectation(agreement or {}, control["shots"])}
    return Evaluation(
        name=run.name,
        kind=run.kind,
        seed=run.seed,
        judge=judge.name,
        metrics=metrics,
        unjudged=rates.unjudged(answers, judge.name),
        judge_error=rates.common_error(answers, judge.name),
        judge_cost=judge.cost() if isinstance(judge, BatchJudge) else None,
        null_control=control,
        comparisons=(),
        provenance=made.origin,
        calibration=None if agreement is None else {target: one.to_dict() for target, one in agreement.items()},
        corrected=None if agreement is None else calibration.corrected(metrics, agreement),
        defence=made.defence,
        dialogue_tests=rates.dialogue_tests(answers, judge.name) or None,
        answers=answers,
        suite=suite,
    )


def baseline_answers(baseline: Evaluation | str | Path, suite: Suite) -> tuple[str, SuiteAnswers]:
    """(the baseline's name, its answers to records of this suite). InputError when there are none."""
    if isinstance(baseline, Evaluation):
        name, stored, where = baseline.name, baseline.answers, f"the baseline {baseline.name!r}"
    else:
        name, stored, where = *_read_baseline(Path(baseline), suite), f"--baseline={baseline}"
    shared = {
        set_name: [dataclasses.replace(a, labels={}) for a in stored.get(set_name, ()) if a.id in records]
        for set_name, records in suite.records.items()
    }
    if not any(shared.values()):
        raise InputError(f"{where}: shares no question with this run; evaluate it on the same data")
    return name, {set_name: answers for set_name, answers in shared.items() if answers}


def against(ours: Evaluation, name: str, baseline: SuiteAnswers, judge: Judge | BatchJudge) -> list[dict[str, Any]]:
    """Paired tests against the baseline, on its answers as this run's judge labels them."""
    suite = ours.suite
    theirs = {
        set_name: judge_answers(answers, {judge.name: judge}, suite.records[set_name], images=suite.images(set_name))
        for set_name, answers in baseline.items()
    }
    return rates.compare(ours.name, ours.answers, name, theirs, suite.records, judge.name, judge.exact)


def _read_baseline(folder: Path, suite: Suite) -> tuple[str, SuiteAnswers]:
    """(the baseline's name, its answers to the sets of this suite)."""
    stored = read_file(folder / "results.json", ResultsFile)
    if not stored["runs"]:
        raise InputError(f"{folder / 'results.json'}: names no run; make it with bin/eval")
    return stored["runs"][0]["name"], {
        set_name: answers_file.read(answers_path(folder, set_name)) for set_name in suite.records
    }
