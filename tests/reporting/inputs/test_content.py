"""What the report reads: every input is checked, and a bad one is named."""

import json

import pytest

from tests.reporting import runs_builder
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.inputs.options import ReportOptions


def test_one_run_is_enough(story):
    runs, _ = story
    found = content.collect(runs[:1])
    assert [run.name for run in found.runs] == ["base"]
    assert found.attack is found.audit is found.guard is found.export is None


def test_nested_metrics_become_paths(story):
    run = content.collect(story[0]).runs[0]
    assert run.metric("gap/blank_image/rr").n == 80
    assert list(run.group("asr_by_opening")) == list(runs_builder.WORDS)
    assert run.metric("no_such_metric") is None


def test_runs_stand_in_the_order_of_the_story(story):
    runs, _ = story
    assert [run.kind for run in content.collect(runs[::-1]).runs] == ["base", "sft", "rmu", "npo", "guard"]


def test_equal_names_are_told_apart_by_seed(tmp_path):
    found = content.collect(runs_builder.write_story(tmp_path, seeds=(1, 0)))
    assert [run.label for run in found.runs][:2] == ["base, seed 0", "sft, seed 0"]
    assert {row["seed"] for row in found.comparisons} == {0, 1}


def test_the_same_run_twice_is_refused(story):
    with pytest.raises(InputError, match="given twice"):
        content.collect([story[0][0], story[0][0]])


def test_a_metric_without_questions_is_not_a_zero(tmp_path):
    empty = {"value": None, "n": 0, "k": 0, "low": None, "high": None}
    run = content.collect([runs_builder.write_run(tmp_path / "r", "base", changes={"asr_after": empty})]).runs[0]
    assert run.metric("asr_after") is None


def test_answers_know_their_set_and_a_torn_last_line_is_left_out(tmp_path):
    folder = runs_builder.write_run(tmp_path / "r", "base", count=3)
    with (folder / "answers" / "unsafe_after.jsonl").open("a") as stream:
        stream.write('{"id": "torn", "ans')
    run = content.collect([folder]).runs[0]
    assert len(run.answers) == 12 and {row["set"] for row in run.answers} >= {"unsafe_after", "harmless_before"}


def test_only_judged_by_the_oracle_counts_as_the_miniature(tmp_path):
    found = content.collect(
        [
            runs_builder.write_run(tmp_path / "a", "base", judge="oracle"),
            runs_builder.write_run(tmp_path / "b", "sft", judge="keyword"),
        ]
    )
    assert [run.miniature for run in found.runs] == [True, False]


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": 7, "runs": []}', "schema is 7"),
        ('{"schema": 1}', "missing required field `runs`"),
        ('{"schema": 1, "runs": [{"name": "a"}]}', r"runs\[0\]: .*`metrics`"),
        (
            '{"schema": 1, "runs": [{"name": "a", "metrics": {"asr_after": {"value": "much"}}}]}',
            "'value' is not a number",
        ),
    ],
)
def test_a_bad_results_file_is_named(tmp_path, text, says):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="results.json.*" + says):
        content.collect([tmp_path])


def test_a_missing_folder_a_bad_answers_line_and_missing_inputs_are_named(tmp_path, story):
    with pytest.raises(InputError, match="nowhere.*missing"):
        content.collect([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no run given"):
        content.collect([])
    for name in ("attack", "audit", "guard_diagnostics"):
        with pytest.raises(InputError, match="lost.json"):
            content.collect(story[0], ReportOptions(**{name: tmp_path / "lost.json"}))
    with pytest.raises(InputError, match="bin/train"):
        content.collect(story[0], ReportOptions(training=[tmp_path]))
    with pytest.raises(InputError, match="bin/convert_hf"):
        content.collect(story[0], ReportOptions(export=tmp_path))
    folder = runs_builder.write_run(tmp_path / "r", "base")
    (folder / "answers" / "unsafe_after.jsonl").write_text(json.dumps({"id": "a", "answer": "b"}) + "\nnot json\n")
    with pytest.raises(InputError, match="unsafe_after.jsonl:2"):
        content.collect([folder])
