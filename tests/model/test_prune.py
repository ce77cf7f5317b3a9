"""Pruned weights: the smallest of every output channel are zero, and only those."""

import jax
import numpy as np
import pytest

from tests.model.tiny import LLAVA, random_params
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.prune import prune


def test_the_smallest_weights_of_every_channel_are_zero():
    params = random_params(LLAVA)
    before, after = (flatten(tree) for tree in (params, prune(params, 0.25)))
    assert {path for path in before if after[path] is not before[path]} == {
        f"decoder/layers/{name}" for name in LINEARS
    }
    for name in LINEARS:
        w, got = (np.asarray(tree[f"decoder/layers/{name}"]) for tree in (before, after))
        inputs = int(np.prod(w.shape[1 : 1 + INPUT_AXES.get(name, 1)]))
        w, got = w.reshape(len(w), inputs, -1), got.reshape(len(w), inputs, -1)
        zero = got == 0
        assert (zero.sum(1) == inputs // 4).all()
        np.testing.assert_array_equal(got[~zero], w[~zero])
        assert (np.where(zero, np.abs(w), 0).max(1) <= np.where(zero, np.inf, np.abs(w)).min(1)).all()


def test_nothing_is_pruned_of_a_share_of_none():
    params = random_params(LLAVA)
    jax.tree.map(np.testing.assert_array_equal, prune(params, 0.0), params)
    with pytest.raises(InputError, match="--pruned=1"):
        prune(params, 1.0)
