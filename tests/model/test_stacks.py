"""Blocks of which only some train: same values, the gradient of exactly these layers, nothing done below or beside."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, random_params
from vlm_mu_jax.model.decoder import DecoderInput, decode
from vlm_mu_jax.model.stacks import Stack, freeze, runs

DOWN, GATE, L = "wdown_LFD", "wgate_LDF", 5
CFG = LLAVA.with_text(L=L).text
LAYERS = random_params(LLAVA.with_text(L=L))["decoder"]["layers"]
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, CFG.D)), jnp.float32)
ROWS = DecoderInput(X, jnp.asarray([6, 4], jnp.int32))


def loss(layers, cfg=CFG, **options):
    return jnp.square(decode(layers, ROWS, cfg, **options).x_BTD).sum()


def sliced(parts, chosen):
    """The layers with `chosen` {name: layers to train}, whose values are `parts`."""
    return {**freeze(LAYERS), **{name: Stack(LAYERS[name], parts[name], layers) for name, layers in chosen.items()}}


def taken(chosen):
    return {name: LAYERS[name][jnp.asarray(layers)] for name, layers in chosen.items()}


CHOSEN = [  # layers that train, last block that runs, remat
    ({DOWN: (1, 2)}, None, "dots"),
    ({DOWN: (1, 2)}, 2, "none"),
    ({DOWN: (2, 1), GATE: (3,)}, None, "none"),  # not in order, and not the same layers
    ({DOWN: (0, 3)}, None, "full"),  # with a gap
    ({DOWN: (4,)}, 2, "none"),  # trains above what is run
]


@functools.cache
def gradient_of_all(upto):
    return jax.jit(jax.value_and_grad(lambda layers: loss(layers, upto=upto)))(LAYERS)


@pytest.mark.parametrize(("chosen", "upto", "remat"), CHOSEN)
def test_the_gradient_of_a_slice_is_the_slice_of_the_gradient(chosen, upto, remat):
    cfg, options = LLAVA.with_text(L=L, remat=remat).text, {"upto": upto}
    want_value, want = gradient_of_all(upto)
    value, got = jax.jit(jax.value_and_grad(lambda parts: loss(sliced(parts, chosen), cfg, **options)))(taken(chosen))
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    for name, layers in chosen.items():
        scale = float(jnp.abs(want[name]).max())
        np.testing.assert_allclose(got[name], want[name][jnp.asarray(layers)], rtol=1e-4, atol=1e-5 * scale)


def scans(jaxpr):
    """(length, whether backward) of every scan of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["reverse"]
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from scans(inner)


def test_the_backward_pass_ends_at_the_lowest_trained_layer():
    chosen = {DOWN: (2, 3)}
    program = jax.make_jaxpr(jax.grad(lambda parts: loss(sliced(parts, chosen), upto=3)))(taken(chosen)).jaxpr
    assert sorted(scans(program)) == [(2, False), (2, False), (2, True)]  # before, slice; slice backward
    whole = jax.make_jaxpr(jax.grad(lambda layers: loss(layers, upto=3)))(LAYERS).jaxpr
    assert sorted(scans(whole)) == [(4, False), (4, True)]


def test_nothing_below_the_slice_is_kept_and_no_gradient_is_as_large_as_a_stack():
    chosen = {DOWN: (2,)}
    _, back = jax.vjp(lambda parts: loss(sliced(parts, chosen), upto=2), taken(chosen))
    frozen = [leaf for leaf in jax.tree.leaves(LAYERS) if leaf.shape[0] == L]
    kept = [leaf for leaf in jax.tree.leaves(back) if not any(leaf is stack for stack in frozen)]
    assert max(leaf.shape[0] for leaf in kept if leaf.ndim) <= 2  # one layer, two rows: never L or layers before it


def test_a_pass_can_stop_and_go_on():
    half = decode(LAYERS, ROWS, CFG, upto=1)
    rest = decode(LAYERS, ROWS.replace(x_BTD=half.x_BTD), CFG, first=2, tap="all")
    whole = decode(LAYERS, ROWS, CFG, tap="all")
    np.testing.assert_allclose(rest.x_BTD, whole.x_BTD, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rest.taps, whole.taps[2:], rtol=1e-5, atol=1e-6)


def test_outputs_of_all_runs_are_joined():
    chosen = {DOWN: (1, 2)}
    pieces = decode(sliced(taken(chosen), chosen), ROWS, CFG, tap="last", keep_kv=True)
    whole = decode(LAYERS, ROWS, CFG, tap="last", keep_kv=True)
    for got, want in zip(jax.tree.leaves(pieces), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_frozen_layers_are_not_cut_out_of_their_stack():
    before, during, after = runs(sliced(taken({DOWN: (1, 2)}), {DOWN: (1, 2)}), 0, L)
    assert [(run.first, run.end) for run in (before, during, after)] == [(0, 1), (1, 3), (3, 5)]
    assert list(during.scanned) == [DOWN] and not before.scanned and not after.scanned
    assert all(leaf.shape[0] == L for leaf in jax.tree.leaves([run.in_place for run in (before, during, after)]))
