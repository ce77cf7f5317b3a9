"""The questions asked while a tiny LLaVA trains: files in, files out."""

import json

import pytest

import vlm_mu_jax
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401
from tests.training.evaluated import config, evaluations  # noqa: F401
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.model.generate import generate_program
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.evaluation_questions import evaluation_of, questions_of
from vlm_mu_jax.training.spec import Observers
from vlm_mu_jax.training.train import train


def test_the_evaluation_asks_the_current_weights_and_compiles_once(config, tmp_path):  # noqa: F811
    settings = settings_lib.checked(config)
    programs = []
    evaluation = evaluation_of(settings, tmp_path)
    measure = evaluation.evaluate

    def counted(step, params):
        values = measure(step, params)
        programs.append(generate_program._cache_size())
        return values

    object.__setattr__(evaluation, "evaluate", counted)
    said = {}
    train(settings, tmp_path, observers=Observers(evaluation=evaluation, on_evaluation=said.__setitem__))
    rows = evaluations(tmp_path)
    assert [row["step"] for row in rows] == [1, 2] and programs[0] == programs[1] > 0
    assert all(row["unsafe_n"] == row["harmless_n"] == row["utility_n"] == 2 for row in rows)
    assert [{"step": step, **values} for step, values in said.items()] == rows
    step = json.loads((tmp_path / "provenance.json").read_text())["weights_of_step"]
    kept = next(row for row in rows if row["step"] == step)
    again = questions_of(settings)(step, vlm_mu_jax.load(tmp_path).params, tmp_path / "again")
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
def test_mistakes_are_named(config, tmp_path, changes, message):  # noqa: F811
    config.eval.update(changes)
    with pytest.raises(InputError, match=message):
        evaluation_of(settings_lib.checked(config), tmp_path)
