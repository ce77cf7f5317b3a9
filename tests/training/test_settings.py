"""Settings: every shipped config is valid, every mistake is named."""

import functools
import importlib.util
import operator

import pytest

from tests.conftest import ROOT
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.registry import FORGET, OBJECTIVES, make_objective, options
from vlm_mu_jax.training.optimizer import OptimConfig
from vlm_mu_jax.training.recipes import RECIPES
from vlm_mu_jax.training.robust import Robust
from vlm_mu_jax.training.settings import changed, checked, defaults
from vlm_mu_jax.training.sweep import points
from vlm_mu_jax.training.trainable import Selection


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(config):
    settings = checked(config)
    OptimConfig(**settings["optim"]), Selection.of(**settings["train"]), Robust(**settings["robust"])
    return make_objective(**settings["objective"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_shipped_configs_are_valid_and_name_their_command(path):
    module = load(path.stem)
    build(module.get_config())
    assert f"bin/train --config=configs/{path.name}" in module.__doc__
    assert "Hardware" in module.__doc__ and "Time" in module.__doc__


@pytest.mark.parametrize("name", FORGET)
def test_every_way_to_forget_has_a_setting_for_the_miniature(name):
    module = load("miniature_unlearn")
    assert module.MINIATURE.keys() == FORGET.keys()
    assert "forget" in build(module.get_config(name)).streams
    with pytest.raises(InputError, match="use one of"):
        module.get_config("sft")


def test_variants_of_the_miniatures_safety_tuning():
    module = load("miniature_sft")
    data = {name: checked(module.get_config(name))["data"] for name in module.VARIANTS}
    assert data["posthoc"]["general_size"] == 110 and data["unsafe_filter"]["safety"] == ""
    assert {name for name in data if data[name]["general"] == "llava_mix.json"} == {"unsafe_filter"}
    unlearned = checked(load("miniature_unlearn").get_config("npo"))["data"]
    assert data["diverse"]["general"] == unlearned["general"] == "llava_keep.json"
    with pytest.raises(InputError, match="use one of posthoc"):
        module.get_config("sft")


@pytest.mark.parametrize(("name", "runs"), [("npo", 8), ("rmu", 6)])
def test_every_point_of_the_sweeps_is_a_run(name, runs):
    chosen = points(checked(load("sweep").get_config(name)))
    assert len(chosen) == runs
    for one in chosen:
        make_objective(**one.settings["objective"]), OptimConfig(**one.settings["optim"])
    with pytest.raises(InputError, match="use one of npo, rmu"):
        load("sweep").get_config("sft")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_hold_every_option_with_its_type(name):
    config = defaults(name, layer=2)
    known = options(name)
    assert set(config.objective.keys()) == {"name", *known}
    for key, option in known.items():
        value = 2 if key == "layer" else option.default
        assert config.objective[key] == value
        wrong = object() if option.kind is tuple else "x" if option.kind in (int, float, bool) else 3
        with pytest.raises((TypeError, ValueError)):
            config.objective[key] = wrong


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.rate", 1.0, "config.optim.rate is no key"),
        ("extra", 1, "config.extra is no key"),
        ("steps", "many", "config.steps must be int, not 'many'"),
        ("optim.learning_rate", "x", "config.optim.learning_rate must be float"),
        ("objective.beta", float("nan"), "config.objective.beta must be a finite number"),
        ("data.separate_general", 1, "config.data.separate_general must be bool"),
        ("train.select", "decoder/.*", "config.train.select must be tuple"),
        ("train.slices", {"decoder/layers/wdown_LFD": "5"}, "must be a list of layer numbers"),
        ("mesh", 3, "config.mesh must hold keys"),
        ("objective.name", "nope", "'nope' is unknown"),
        ("objective.layer", 3, "config.objective.layer is no key"),
    ],
)
def test_mistakes_are_named(path, value, message):
    config = defaults("npo")
    node = config.unlock()
    *parents, name = path.split(".")
    for parent in parents:
        node = node[parent]
    with config.ignore_type():
        node[name] = value
    with pytest.raises(InputError, match=message):
        checked(config)


def test_numbers_may_be_written_without_a_point_and_missing_keys_are_named():
    config = defaults("sft")
    with config.ignore_type():
        config.optim.learning_rate = 1
    assert checked(config)["optim"]["learning_rate"] == 1
    del config.unlock()["steps"]
    with pytest.raises(InputError, match="config.steps is missing"):
        checked(config)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_of_the_comparison_is_a_config_whose_changes_fit(recipe):
    name, _, variant = recipe.config.partition(":")
    settings = checked(changed(load(name).get_config(variant), recipe.changes))
    for path, value in recipe.changes.items():
        assert functools.reduce(operator.getitem, path.split("."), settings) == value
