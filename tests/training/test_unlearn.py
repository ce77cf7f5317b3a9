"""Unlearning in memory, and hashes that join a training to the evaluations of its model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import vlm_mu_jax
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401
from tests.training.evaluated import config  # noqa: F401
from vlm_mu_jax import RelearnOptions, UnlearnOptions
from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.evaluate import EvaluateOptions
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.training.evaluation_questions import QuestionOptions
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.trainable import Selection

NORM = Selection(select=("decoder/norm_D",))
SHORT = UnlearnOptions("npo", {"beta": 0.5}, OptimConfig(1e-2), steps=3, batch_size=2, trainable=NORM)


@pytest.fixture
def records(data_dir):  # noqa: F811
    """(forget, retain) of the data folder; the reference answers stand for harmful ones."""
    all_of_them = readers.read(data_dir / "test.json")
    return all_of_them.of_kind("unsafe"), all_of_them.of_kind("safe")


def changed(before, after):
    return {path for path, x in flatten(after).items() if (np.asarray(x) != np.asarray(flatten(before)[path])).any()}


def test_a_copy_of_the_model_forgets_and_can_be_gone_on_with(model, records, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    before = jax.tree.map(np.asarray, model.params)
    trained = vlm_mu_jax.unlearn(model, *records, SHORT)
    assert trained.step == 3 and trained.metrics["forget_nll"].shape == (3,) and trained.workdir is None
    assert trained.last["forget_nll"] > trained.metrics["forget_nll"][0]
    assert changed(before, model.params) == set() and changed(before, trained.params) == {"decoder/norm_D"}
    again = vlm_mu_jax.unlearn(trained.model, *records, dataclasses.replace(SHORT, steps=1))
    assert changed(trained.params, again.params) == {"decoder/norm_D"}
    assert not list(tmp_path.iterdir())  # nothing is written unless asked


def test_with_a_workdir_it_writes_a_model_folder(checkpoint, records, tmp_path):  # noqa: F811
    start = vlm_mu_jax.load(checkpoint)
    options = dataclasses.replace(SHORT, objective="idkdpo", objective_options={}, trainable=Selection((), lora_rank=2))
    trained = vlm_mu_jax.unlearn(start, *records, options, tmp_path)
    loaded = vlm_mu_jax.load(tmp_path)
    assert changed(trained.params, loaded.params) == set() and trained.model.folder == loaded.folder
    assert json.loads((tmp_path / "provenance.json").read_text()) == json.loads(json.dumps(trained.provenance))
    assert trained.provenance["kind"] == "idkdpo" and trained.provenance["data"]["preferred"]["rows"] > 0
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    again = vlm_mu_jax.unlearn(start, *records, options, tmp_path)
    assert not again.metrics and changed(again.params, trained.params) == set()  # it was done already


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "sft"}, "forgets nothing"),
        ({"objective": "nop"}, "'nop' is unknown"),
        ({"objective": "dpo"}, "needs `preferred`"),
        ({"objective_options": {"gamma": 1}}, "gamma"),
        ({"forget_target": "all"}, "forget_target"),
        ({"max_length": 3}, "forget"),
    ],
)
def test_mistakes_are_named(model, records, options, message):  # noqa: F811
    with pytest.raises(InputError, match=message):
        vlm_mu_jax.unlearn(model, *records, UnlearnOptions(**{"objective": "npo", "trainable": NORM, **options}))


def test_the_provenance_of_a_training_and_of_its_evaluation_agree(config, data_dir, tmp_path):  # noqa: F811
    config.eval.every, config.train.lora_rank = 0, 2
    trained = vlm_mu_jax.train(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "provenance.json").read_text())
    short = EvaluateOptions(subset="test", max_questions=1, max_new_tokens=2)

    def measured(given):
        return vlm_mu_jax.evaluate(given, data_dir, short).provenance["checkpoint"]["weights_sha256"]

    assert measured(tmp_path / "run") == measured(trained.model) == written["weights_sha256"]
    assert measured(config.model.init) == written["start_weights_sha256"]
    asked = RelearnOptions(QuestionOptions(str(data_dir), "test", questions=1, max_new_tokens=2), steps=1, every=1)
    attacked = vlm_mu_jax.relearn(trained.model, readers.read(data_dir / "test.json").of_kind("safe"), asked)
    assert attacked.weights_sha256 == written["weights_sha256"] and [p.step for p in attacked.curve] == [0, 1]
