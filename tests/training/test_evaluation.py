"""Evaluation while training: the best checkpoint, early stopping, and both after a restart."""

import json

import numpy as np
import pytest

from tests.training import tiny
from tests.training.test_loop import before_step
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.evaluation import EvaluationHistory, EvaluationPlan
from vlm_mu_jax.training.trainable import Selection

SFT = make_objective("sft")
SELECTION = Selection.of(select=["decoder/norm_D"])


def run(params, workdir, evaluation, steps=12, **options):
    options = {"trainable": SELECTION, "keep": 1, **options}
    return tiny.fit(SFT, params, steps, workdir=workdir, evaluation=evaluation, **options)


class Scores:
    """An evaluation that gives the scores of a list, and remembers the weights it was given."""

    def __init__(self, *scores):
        self.scores, self.seen = scores, {}

    def __call__(self, step, params):
        self.seen[step] = np.asarray(flatten(params)["decoder/norm_D"])
        return {"score": self.scores[step // 2 - 1], "other": 0.5}


def test_the_best_weights_are_kept_and_returned_and_training_stops_early(params, tmp_path):
    scores = Scores(3.0, 1.0, 2.0, 1.5, 0.5, 0.0)
    fitted = run(params, tmp_path, EvaluationPlan(scores, 2, best="score:min", patience=2))
    assert fitted.step == 4 and [row["step"] for row in fitted.evaluations] == [2, 4, 6, 8]
    assert fitted.metrics["step"].tolist() == list(range(1, 9))  # 4 was the best, 6 and 8 brought nothing better
    np.testing.assert_array_equal(fitted.params["decoder"]["norm_D"], scores.seen[4])
    assert not np.array_equal(scores.seen[4], scores.seen[8])
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"4", "8"}
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert lines[1] == {"step": 4, "score": 1.0, "other": 0.5} and [line["step"] for line in lines] == [2, 4, 6, 8]
    again = run(params, tmp_path, EvaluationPlan(Scores(), 2, best="score:min", patience=2))
    assert not again.metrics and again.step == 4  # it stays stopped
    np.testing.assert_array_equal(again.params["decoder"]["norm_D"], scores.seen[4])


def test_without_a_rule_the_last_weights_are_returned(params, tmp_path):
    scores = Scores(3.0, 1.0, 2.0)
    fitted = run(params, tmp_path, EvaluationPlan(scores, 2), steps=5)
    assert sorted(scores.seen) == [2, 4, 5]  # the last step is always evaluated
    assert len(fitted.metrics["step"]) == fitted.step == 5
    np.testing.assert_array_equal(fitted.params["decoder"]["norm_D"], scores.seen[5])


def test_a_killed_run_decides_as_the_uninterrupted_one(params, tmp_path):
    def killed():
        raise KeyboardInterrupt

    plan = {"best": "score:max", "patience": 2}
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path, EvaluationPlan(Scores(1.0, 5.0, 2.0), 2, **plan), progress=before_step(6, killed))
    with (tmp_path / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 6, "score": 9.0}\n{"step": 8, "sc')  # of a checkpoint that was never completed
    scores = Scores(None, None, 3.0, 4.0, 6.0, 7.0)
    run(params, tmp_path, EvaluationPlan(scores, 2, **plan))
    assert sorted(scores.seen) == [6, 8]  # step 4 still counts as the best
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"4", "8"}


def test_the_first_of_equal_results_is_the_best(tmp_path):
    results = EvaluationHistory(
        EvaluationPlan(lambda step, params: {"x": 1.0}, 1, best="x:max", patience=2), tmp_path, 0
    )
    for step in (1, 2):
        results.measure(step, {})
    assert results.best_step == 1 and not results.exhausted
    results.measure(3, {})
    assert results.exhausted


def test_results_of_other_forms_are_named_and_those_that_are_no_number_left_out(tmp_path):
    plan = EvaluationPlan(lambda *_: {"x": 1.0, "y": float("nan")}, 1, best="x:max")
    for line, says in (
        ('{"step": 1, "y": 2}', "a line has no 'x'"),
        ('{"x": 1}', "no 'step'"),
        ('{"step": 1, "x": "1"}', "x"),
        ("[1]", "JSON object"),
    ):
        (tmp_path / "evaluations.jsonl").write_text(f"{line}\n")
        with pytest.raises(InputError, match=f"evaluations.jsonl.*{says}"):
            EvaluationHistory(plan, tmp_path, 1)
    (tmp_path / "evaluations.jsonl").unlink()
    assert EvaluationHistory(plan, tmp_path, 0).measure(1, {}) == {"x": 1.0}
    assert EvaluationHistory(plan, tmp_path, 1).rows == ({"step": 1, "x": 1.0},)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"every": 1, "best": "score"}, "METRIC:max"),
        ({"every": 1, "patience": 2}, "needs best"),
        ({"every": 1, "best": "score:max", "patience": 0}, "at least 1"),
    ],
)
def test_bad_plans_are_named(options, message):
    with pytest.raises(InputError, match=message):
        EvaluationPlan(Scores(), **options)


def test_a_best_needs_a_workdir_and_its_metric(params, tmp_path):
    with pytest.raises(InputError, match="needs a workdir"):
        run(params, None, EvaluationPlan(Scores(), 1, best="score:max"))
    with pytest.raises(JobError, match="no finite 'asr'"):
        run(params, tmp_path, EvaluationPlan(Scores(1.0), 2, best="asr:min"))
