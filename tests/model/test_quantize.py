"""Quantised weights: within half a step of the original, coded as published, and only where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, mixed_rows, pad, random_params, run
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.lora import LINEARS
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.quantize import KINDS, Scheme, decoded, encoded, quantize

SCHEMES = ["int8", "int8:4", "int4:channel", "int4:5", "nf4:4", "nf4:channel"]


def weights(shape=(2, 12, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def round_trip(w, text, inputs=1):
    scheme = Scheme.parse(text)
    return np.asarray(decoded(encoded(jnp.asarray(w), scheme, inputs), scheme, jnp.asarray(w)))


@pytest.mark.parametrize("text", SCHEMES)
def test_every_weight_is_within_half_a_step(text):
    """A step is a / 127, a / 7, or the gap of two neighbouring quantiles; a is the largest weight of the group."""
    w, scheme = weights(), Scheme.parse(text)
    got, size = round_trip(w, text), scheme.group or 12
    widest = {"int8": 1 / 127, "int4": 1 / 7, "nf4": 1 - 0.6961928009986877}[scheme.kind]
    for start in range(0, 12, size):
        part = slice(start, start + size)
        most = np.abs(w[:, part]).max(1, keepdims=True)
        assert np.all(np.abs(got - w)[:, part] <= most * widest / 2 * (1 + 1e-5))
    assert not np.array_equal(got, w)


@pytest.mark.parametrize("text", SCHEMES)
def test_a_second_round_trip_changes_nothing(text):
    once = round_trip(weights(), text)
    np.testing.assert_allclose(round_trip(once, text), once, rtol=1e-6, atol=1e-7)


def test_codes_are_those_of_the_formulas():
    w = np.array([[[-1.0], [0.5], [0.26], [0.0]]], np.float32) * 3
    stored = {kind: encoded(jnp.asarray(w), Scheme(kind, None)) for kind in KINDS}
    codes = {kind: np.asarray(one.codes_LGIO).astype(int).ravel().tolist() for kind, one in stored.items()}
    assert codes == {"int8": [-127, 64, 33, 0], "int4": [-7, 4, 2, 0], "nf4": [0, 12, 10, 7]}
    assert [one.codes_LGIO.dtype for one in stored.values()] == [jnp.int8, jnp.int4, jnp.uint4]
    assert float(stored["int8"].scale_LG1O.item()) == pytest.approx(3 / 127)


def test_groups_and_channels_have_scales_of_their_own():
    w = weights()
    larger = w.copy()
    larger[:, :4] *= 100  # of every channel the first group
    np.testing.assert_array_equal(round_trip(larger, "int4:4")[:, 4:], round_trip(w, "int4:4")[:, 4:])
    larger = w.copy()
    larger[..., 0] *= 100
    np.testing.assert_array_equal(round_trip(larger, "int4:channel")[..., 1:], round_trip(w, "int4:channel")[..., 1:])


def test_inputs_of_several_axes_are_one_axis():
    w = weights((2, 3, 4, 5))  # as wo_LNHD: heads and their size are inputs
    flat = round_trip(w.reshape(2, 12, 5), "int4:6")
    np.testing.assert_array_equal(round_trip(w, "int4:6", inputs=2), flat.reshape(w.shape))
    np.testing.assert_array_equal(round_trip(np.zeros_like(w), "nf4", inputs=2), np.zeros_like(w))


def test_only_the_decoders_linears_change_and_eight_bits_hardly_move_the_logits():
    params = random_params(LLAVA)
    batch = pad(*mixed_rows())
    exact = np.asarray(run(params, batch, cfg=LLAVA).logits_BTV)
    moved, same = {}, {}
    for text in ("int8", "int4:8", "nf4:8"):
        found = quantize(params, Scheme.parse(text))
        before, after = flatten(params), flatten(found)
        changed = {path for path in before if after[path] is not before[path]}
        assert changed == {f"decoder/layers/{name}" for name in LINEARS}
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
        got = np.asarray(run(found, batch, cfg=LLAVA).logits_BTV)
        moved[text] = np.abs(got - exact).mean() / np.abs(exact).mean()
        same[text] = (got.argmax(-1) == exact.argmax(-1)).mean()
    assert same["int8"] > 0.95  # the likeliest next token, at every position
    assert 0 < moved["int8"] < 0.02 and moved["int8"] < min(moved["int4:8"], moved["nf4:8"])


@pytest.mark.parametrize("text", ["int3", "int4:0", "int4:x", "", "nf4:-1"])
def test_what_is_no_scheme_is_named(text):
    with pytest.raises(InputError, match=f"--quantize={text}: use one of int8, int4, nf4"):
        Scheme.parse(text)


def test_schemes_say_what_they_are():
    assert [str(Scheme.parse(text)) for text in ("int8", "int4", "nf4:32")] == ["int8:channel", "int4:128", "nf4:32"]
    assert [Scheme.parse(text).bits for text in ("int8", "int4", "nf4")] == [8, 4.25, 4.5]
