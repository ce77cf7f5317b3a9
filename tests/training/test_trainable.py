"""Selections, slices, LoRA and master weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import lora as lora_lib
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.vlm import forward, param_specs
from vlm_mu_jax.training.trainable import Selection, assemble, dtypes, finished, selected_paths, shared_blocks, split

DOWN = "decoder/layers/wdown_LFD"
SPECS = param_specs(tiny.TEXT)


def parts(params, selection, keep=False):
    return split(params, selection, SPECS, jax.random.key(0), keep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": ["decoder/wq"]}, "'decoder/wq' matches no parameter"),
        ({"select": [], "slices": {"decoder/layers/nope": [0]}}, "no stacked parameter"),
        ({"select": [], "slices": {"decoder/norm_D": [0]}}, "no stacked parameter"),
        ({"select": [], "slices": {DOWN: [2]}}, "layers 0..1"),
        ({"select": [], "slices": {DOWN: [0, 0]}}, "layers 0..1"),
        ({"select": [], "slices": {DOWN: []}}, "layers 0..1"),
        ({"select": [".*"], "slices": {DOWN: [0]}}, "also matches train.select"),
        ({"select": []}, "nothing trains"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        selected_paths(Selection.of(**options), SPECS)


def test_bad_adapters_are_named():
    for patterns, rank in ((("nope",), 4), ((".*",), 0)):
        with pytest.raises(InputError, match="lora"):
            lora_lib.lora_specs(SPECS, patterns, rank)


@pytest.mark.parametrize("keep", [True, False])
def test_nothing_changes_before_training(params, keep):
    selection = Selection.of(select=["decoder/norm_D"], slices={DOWN: [1]}, lora_rank=2)
    trainable, frozen = parts(params, selection, keep)
    assert ("norm_D" in frozen["decoder"]) is keep
    merged = flatten(finished(trainable, frozen, selection, dtypes(params)))
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(merged[path], leaf, err_msg=path)
        assert merged[path].dtype == leaf.dtype


def test_trainable_leaves_are_copies(params):
    trainable, _ = parts(params, Selection())
    mine, theirs = flatten(trainable["weights"])[DOWN], flatten(params)[DOWN]
    assert mine.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_merged_adapters_equal_adapters_beside_the_weights(params):
    selection = Selection.of(select=[], lora_rank=3, lora_alpha=12.0)
    trainable, frozen = parts(params, selection)
    trainable = jax.tree.map(lambda x: x + 0.05, trainable)
    batch = jax.tree.map(jnp.asarray, tiny.stream()[0].batch)
    beside, lora = assemble(trainable, frozen, selection, dtypes(params))
    assert selection.lora_scale == 4.0 and set(lora) == set(lora_lib.LINEARS)
    want = forward(beside, batch, tiny.TEXT, lora=lora).logits_BTV
    merged = forward(finished(trainable, frozen, selection, dtypes(params)), batch, tiny.TEXT).logits_BTV
    base = forward(params, batch, tiny.TEXT).logits_BTV
    np.testing.assert_allclose(merged, want, rtol=1e-4, atol=1e-5)
    assert jnp.abs(base - want).max() > 1e-3
    np.testing.assert_array_equal(forward(beside, batch, tiny.TEXT).logits_BTV, base)  # adapters off = reference


def test_small_steps_on_bfloat16_weights_are_not_lost(params):
    half = unflatten({path: leaf.astype(jnp.bfloat16) for path, leaf in flatten(params).items()})
    trainable, frozen = parts(half, Selection.of(select=[DOWN]))
    leaf = trainable["weights"]["decoder"]["layers"]["wdown_LFD"]
    assert leaf.dtype == jnp.float32
    for _ in range(400):
        leaf = leaf + 5e-7
    trainable["weights"]["decoder"]["layers"]["wdown_LFD"] = leaf
    merged = flatten(finished(trainable, frozen, Selection.of(select=[DOWN]), dtypes(half)))[DOWN]
    assert merged.dtype == jnp.bfloat16 and (merged != flatten(half)[DOWN]).any()


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({"select": [], "slices": {DOWN: [1]}}, 1),
        ({"select": [], "slices": {DOWN: [0, 1]}}, 0),
        ({"select": ["decoder/head_DV", "decoder/norm_D"], "slices": {DOWN: [1]}}, 1),
        ({"select": ["decoder/head_DV"]}, 2),  # no block trains
        ({"select": [], "lora_rank": 2}, 0),
        ({"select": ["decoder/layers/wq.*"]}, 0),
        ({"select": ["decoder/embed_VD"]}, None),
        ({"select": [".*"]}, None),
    ],
)
def test_blocks_that_are_the_same_before_and_now_are_known(options, shared):
    assert shared_blocks(Selection.of(**options), SPECS) == shared
