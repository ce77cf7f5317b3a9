"""Answers and rates in other programs' files: all of them, the judge's labels, and no text of real data unasked."""

import json

import pytest

from tests.reporting.runs_builder import write_run
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.reporting.exports import inspect_log, lmms_eval, parquet
from vlm_mu_jax.reporting.exports.rows import HIDDEN, answer_rows
from vlm_mu_jax.reporting.inputs import content
from vlm_mu_jax.reporting.inputs.options import ReportOptions


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of the miniature, whose text may be shown, and one of real data."""
    root = tmp_path_factory.mktemp("runs")
    shown = [write_run(root / name, name) for name in ("base", "sft")]
    return shown, write_run(root / "real", "npo", judge="refusal")


def test_inspect_logs_hold_every_answer_with_the_judges_label(folders, tmp_path):
    runs = content.collect(folders[0])
    paths = inspect_log.write(runs, tmp_path)
    assert [path.name.rpartition("_")[2] for path in paths] == ["base.json", "sft.json"]
    log = json.loads(paths[0].read_text())
    assert log["status"] == "success" and log["eval"]["model"] == "vlm_mu_jax/base"
    assert len(log["samples"]) == 48 == len({(one["id"], one["epoch"]) for one in log["samples"]})
    for one, answer in zip(log["samples"], runs.runs[0].answers, strict=True):
        assert one["output"]["choices"][0]["message"]["content"] == answer["answer"]
        assert one["scores"]["oracle"]["value"] == answer["labels"]["oracle"]["label"]
    (score,) = log["results"]["scores"]
    assert score["metrics"]["asr_after"]["value"] == runs.runs[0].metrics["asr_after"].value


def test_inspects_own_reader_opens_them(folders, tmp_path):
    reader = pytest.importorskip("inspect_ai.log")
    for path in inspect_log.write(content.collect(folders[0]), tmp_path):
        log = reader.read_eval_log(str(path))
        assert log.status == "success" and len(log.samples) == 48
        assert log.samples[0].output.completion == log.samples[0].scores["oracle"].answer


def test_lmms_eval_gets_a_task_per_set_with_the_shares_of_its_labels(folders, tmp_path):
    paths = lmms_eval.write(content.collect(folders[0][:1]), tmp_path)
    assert {path.parent.name for path in paths} == {"base"} and len(paths) == 5
    results = json.loads(paths[0].read_text())
    assert results["n-samples"]["unsafe_before"] == {"original": 12, "effective": 12}
    for label in ("answered", "refused", "irrelevant"):
        assert results["results"]["unsafe_before"][f"{label},none"] == pytest.approx(1 / 3)
    assert results["higher_is_better"]["unsafe_after"] == {"answered": False, "irrelevant": False, "refused": True}
    assert results["higher_is_better"]["harmless_after"]["answered"] is True
    samples = next(path for path in paths if path.name.endswith("_samples_unsafe_before.jsonl"))
    assert len(samples.read_text().splitlines()) == 12


def test_parquet_holds_a_row_per_answer_and_one_per_rate(folders, tmp_path):
    read = pytest.importorskip("pyarrow.parquet").read_table
    runs = content.collect(folders[0])
    answers, results = (read(path).to_pylist() for path in parquet.write(runs, tmp_path))
    assert answers == [row for run in runs.runs for row in answer_rows(runs, run)] and len(answers) == 96
    assert len(results) == sum(len(run.metrics) for run in runs.runs)
    row = next(row for row in results if (row["run"], row["metric"]) == ("sft", "asr_after"))
    assert row["value"] == runs.runs[1].metrics["asr_after"].value and row["n"] == 120


def test_the_text_of_real_data_stays_out_unless_it_is_asked_for(folders, tmp_path):
    for shown in (False, True):
        runs = content.collect([folders[1]], ReportOptions(show_text=shown))
        folder = tmp_path / str(shown)
        paths = [*inspect_log.write(runs, folder), *lmms_eval.write(runs, folder)]
        texts = [path.read_text() for path in paths]
        assert (
            any("red blick" in text for text in texts) is shown and any(HIDDEN in text for text in texts) is not shown
        )
        assert all((row["answer"] is not None) is shown for row in answer_rows(runs, runs.runs[0]))


def test_parquet_without_pyarrow_says_what_to_install(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install 'vlm_mu_jax.data.'"):
        parquet.write(content.collect(folders[0]), tmp_path)
