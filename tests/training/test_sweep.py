"""A sweep's points: every combination, with whole settings, and mistakes named before anything runs."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training import sweep
from vlm_mu_jax.training.settings import checked, defaults


def settings(*axes):
    config = defaults("npo")
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
