"""Objectives by name: every name works, mistakes are named."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.registry import OBJECTIVES, make_objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_hashable_and_names_its_streams(name):
    objective = make_objective(name, **({"layer": 1} if name == "rmu" else {}))
    assert objective.streams and hash(objective) == hash(objective)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nope", {}, "objective.name"),
        ("npo", {"betta": 1.0}, "objective.betta"),
        ("sft", {"beta": 1.0}, "none"),
        ("rmu", {}, "objective.layer is required"),
        ("graddiff", {"retain_term": "l2"}, "retain_term"),
    ],
)
def test_mistakes_name_the_option(name, options, message):
    with pytest.raises(InputError, match=message):
        make_objective(name, **options)
