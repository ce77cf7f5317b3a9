"""Sizes of published checkpoints."""

import math

import pytest

from vlm_mu_jax.model.families.published import published
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs

# Billions of parameters, as the model cards say.
SIZES = {
    "llava-1.5-7b": 7.06,
    "llava-1.5-13b": 13.35,
    "internvl3-8b": 7.94,
    "llava-onevision-7b": 8.03,
    "smolvlm2-2.2b": 2.247,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-8b": 8.77,
    "gemma-3-4b": 4.300,
    "gemma-3-12b": 12.187,
}


@pytest.mark.parametrize("name", SIZES)
def test_a_published_model_has_as_many_parameters_as_its_card_says(name):
    specs = flatten(param_specs(published(name)))
    assert sum(math.prod(spec.shape) for spec in specs.values()) / 1e9 == pytest.approx(SIZES[name], abs=0.006)
