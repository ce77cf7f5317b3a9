"""Evaluation inside training, sweeps and the relearning attack, on a tiny LLaVA: files in, files out."""

import json

import jax
import numpy as np
import pytest

import vlm_mu_jax
from tests.command import run_command
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401
from vlm_mu_jax.cli import relearning, sweep, train_evaluation
from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.results import frontier
from vlm_mu_jax.model.generate import generate_program
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.run import run, trained_step


@pytest.fixture
def config(checkpoint, data_dir):  # noqa: F811
    c = settings_lib.defaults("sft")
    c.update(steps=2, batch_size=4)
    c.model.init = str(checkpoint)
    c.data.update(root=str(data_dir), safety="test.json")
    c.train.select = ("decoder/norm_D",)
    c.eval.update(every=1, data=str(data_dir), subset="test", questions=2, batch_size=4, max_new_tokens=3)
    return c


def evaluations(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_the_evaluation_asks_the_current_weights_and_compiles_once(config, tmp_path, capsys):
    settings = settings_lib.checked(config)
    programs = []
    evaluation = train_evaluation.for_training(settings, tmp_path)
    measure = evaluation.evaluate

    def counted(step, params):
        values = measure(step, params)
        programs.append(generate_program._cache_size())
        return values

    object.__setattr__(evaluation, "evaluate", counted)
    run(settings, tmp_path, evaluation=evaluation)
    rows = evaluations(tmp_path)
    assert [row["step"] for row in rows] == [1, 2] and programs[0] == programs[1] > 0
    assert all(row["unsafe_n"] == row["harmless_n"] == row["utility_n"] == 2 for row in rows)
    assert "evaluation after step 2/2  ASR" in capsys.readouterr().err
    step = trained_step(tmp_path)
    kept = next(row for row in rows if row["step"] == step)
    again = train_evaluation.questions_for(settings)(step, vlm_mu_jax.load(tmp_path).params, tmp_path / "again")
    assert {"step": step, **again} == kept  # the written model is the one that was measured
    asked = answers_file.read(tmp_path / "evaluations" / "000002" / "answers" / "unsafe_openings.jsonl")
    assert {answer.condition.word for answer in asked} == {"share", "what"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "config.eval.data is not set"),
        ({"data": "/nowhere"}, "/nowhere: no such folder"),
        ({"subset": "validation"}, "validation.json"),
        ({"attack_words": "/nowhere.json"}, "/nowhere.json"),
        ({"best": "frontier"}, "METRIC:max"),
    ],
)
def test_mistakes_are_named(config, tmp_path, changes, message):
    config.eval.update(changes)
    with pytest.raises(InputError, match=message):
        train_evaluation.for_training(settings_lib.checked(config), tmp_path)


def test_a_killed_sweep_goes_on_with_the_point_it_was_at(config, tmp_path, monkeypatch, capsys):
    config.sweep = (("optim.learning_rate", (1e-3, 0.3)),)
    settings, train, begun = settings_lib.checked(config), sweep._train, []

    def once(point, *others):
        if begun:
            raise KeyboardInterrupt
        begun.append(point.name)
        train(point, *others)

    monkeypatch.setattr(sweep, "_train", once)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(settings, tmp_path)
    begun.clear()
    assert len(json.loads((tmp_path / "sweep.json").read_text())["rows"]) == 1
    monkeypatch.setattr(sweep, "_train", lambda point, *others: (begun.append(point.name), train(point, *others)))
    content = sweep.run(settings, tmp_path)
    assert begun == ["learning_rate=0.3"]
    for row in content["rows"]:
        measured = next(r for r in evaluations(tmp_path / row["name"]) if r["step"] == row["step"])
        assert row["metrics"]["asr"]["value"] == measured["asr"] and row["frontier"] == measured["frontier"]
    assert content["best"] == max(content["rows"], key=lambda row: row["frontier"])["name"]
    table = (tmp_path / "table.md").read_text()
    assert table.count("\n") == 4 and table in capsys.readouterr().out
    assert "var(--" not in (tmp_path / "frontier.svg").read_text()
    settings["steps"] = 3
    with pytest.raises(InputError, match="other settings"):
        sweep.run(settings, tmp_path)


def test_a_sweep_without_evaluation_has_nothing_to_compare(config, tmp_path):
    config.sweep, config.eval.every = (("optim.learning_rate", (1e-3,)),), 0
    with pytest.raises(InputError, match="config.eval.every is 0"):
        sweep.run(settings_lib.checked(config), tmp_path)


def test_relearning_is_measured_from_the_start_and_leaves_the_model_alone(config, checkpoint, data_dir, tmp_path):  # noqa: F811
    attacked = vlm_mu_jax.load(checkpoint)
    before = jax.tree.map(np.asarray, attacked.params)
    questions = train_evaluation.questions_for(settings_lib.checked(config))
    records = relearning.harmless_records(data_dir / "test.json")
    assert {record.kind for record in records} == {"safe"}
    how = relearning.Attack(steps=3, every=2, batch_size=16, learning_rate=0.05, lora_rank=0, seed=0)
    seen = {}
    found = relearning.attack(attacked, records, data_dir, how, questions, tmp_path, report=seen.__setitem__)
    assert [point["step"] for point in found["curve"]] == [0, 2, 3] == list(seen)
    for point in found["curve"]:
        assert point["metrics"]["asr"] == frontier.with_interval(seen[point["step"]], "asr").to_dict()
    jax.tree.map(np.testing.assert_array_equal, before, attacked.params)
    answers = [
        [a.answer for a in answers_file.read(tmp_path / "evaluations" / step / "answers" / "harmless_before.jsonl")]
        for step in ("000000", "000003")
    ]
    assert answers[0] != answers[1]  # the weights that were asked are those that were trained
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert relearning.attack(attacked, records, data_dir, how, questions, tmp_path) == found  # nothing is trained again


def test_forget_examples_carry_the_harmful_answers(data_dir, tmp_path):  # noqa: F811
    safety, lines = readers.read(data_dir / "test.json"), []
    for i in range(5):
        label = "refused" if i == 4 else "answered"
        lines.append(
            {
                "id": f"u{i}",
                "condition": {"attack": "none"},
                "answer": f"way {i}",
                "labels": {"keyword": {"label": label}},
            }
        )
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = relearning.forget_records(safety, tmp_path / "answers.jsonl", 3, seed=1)
    assert len({r.id for r in drawn}) == 3 and all(r.answer == f"way {r.id[1:]}" for r in drawn)
    with pytest.raises(InputError, match="only 4 usable"):
        relearning.forget_records(safety, tmp_path / "answers.jsonl", 5, seed=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --forget=K or --harmless=FILE"),
        (["--forget=2", "--harmless=x.json"], "give either"),
        (["--forget=2"], "needs --forget_answers"),
    ],
)
def test_bin_relearn_answers_mistakes_with_one_line(flags, message, tmp_path):
    needed = ["--checkpoint=none", "--data=none", f"--workdir={tmp_path / 'w'}"]
    done = run_command("relearn", *needed, *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "w").exists()
