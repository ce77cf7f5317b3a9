"""A sweep: its points are every combination, mistakes are named before anything runs, and a killed one goes on."""

import json

import pytest

from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401
from tests.training.evaluated import config, evaluations  # noqa: F401
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training import sweep
from vlm_mu_jax.training.settings import checked, defaults


def settings(*axes):
    config = defaults("npo")  # noqa: F811
    config.sweep = axes
    return checked(config)


def test_the_points_are_all_combinations_and_change_nothing_else():
    base = settings(("objective.beta", (0.5, 1.0)), ("optim.learning_rate", (1e-4, 1e-3, 1e-2)))
    points = sweep.points(base)
    assert [point.name for point in points][:2] == ["beta=0.5,learning_rate=0.0001", "beta=0.5,learning_rate=0.001"]
    assert len({point.name for point in points}) == 6
    for point in points:
        expected = settings()
        expected["objective"]["beta"] = point.values["objective.beta"]
        expected["optim"]["learning_rate"] = point.values["optim.learning_rate"]
        assert point.settings == expected
    assert base["objective"]["beta"] == defaults("npo").objective.beta  # the config itself stays as it is


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("objective.beta",), "is no pair"),
        ((("objective.beta", ()),), "is no pair"),
        ((("objective.beta", 1.0),), "is no pair"),
        ((("objective.layer", (1, 2)),), "config.objective.layer is no key"),
        ((("nothing.beta", (1.0,)),), "config.nothing.beta is no key"),
        ((("objective.beta", ("much",)),), "config.objective.beta must be float"),
        ((("objective.beta", (1.0,)), ("objective.beta", (2.0,))), "stands twice"),
        ((("eval.every", (1, 2)),), "part of sweep or eval"),
    ],
)
def test_mistakes_are_named(axes, message):
    with pytest.raises(InputError, match=message):
        sweep.points(settings(*axes))


def test_a_killed_sweep_goes_on_with_the_point_it_was_at(config, tmp_path, monkeypatch):  # noqa: F811
    config.sweep = (("optim.learning_rate", (1e-3, 0.3)),)
    settings, train, begun = checked(config), sweep._train, []

    def once(point, *others):
        if begun:
            raise KeyboardInterrupt
        begun.append(point.name)
        train(point, *others)

    monkeypatch.setattr(sweep, "_train", once)
    with pytest.raises(KeyboardInterrupt):
        sweep.run_sweep(settings, tmp_path)
    begun.clear()
    assert len(json.loads((tmp_path / "sweep.json").read_text())["rows"]) == 1
    monkeypatch.setattr(sweep, "_train", lambda point, *others: (begun.append(point.name), train(point, *others)))
    content = sweep.run_sweep(settings, tmp_path)
    assert begun == ["learning_rate=0.3"]
    for row in content["rows"]:
        measured = next(r for r in evaluations(tmp_path / row["name"]) if r["step"] == row["step"])
        assert row["metrics"]["asr"]["value"] == measured["asr"] and row["frontier"] == measured["frontier"]
    assert content["best"] == max(content["rows"], key=lambda row: row["frontier"])["name"]
    assert (tmp_path / "table.md").read_text() == sweep.markdown(content) + "\n"
    assert sweep.markdown(content).count("\n") == 3
    settings["steps"] = 3
    with pytest.raises(InputError, match="other settings"):
        sweep.run_sweep(settings, tmp_path)


def test_a_sweep_without_evaluation_has_nothing_to_compare(config, tmp_path):  # noqa: F811
    config.sweep, config.eval.every = (("optim.learning_rate", (1e-3,)),), 0
    with pytest.raises(InputError, match="config.eval.every is 0"):
        sweep.run_sweep(checked(config), tmp_path)
