"""Linear maps in few bits: the numbers of the rounded model, the bytes that the bits promise, no gradient of codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.model.tiny import LLAVA, mixed_rows, pad, random_params, run
from vlm_mu_jax.model.lora import INPUT_AXES, LINEARS
from vlm_mu_jax.model.quantize import Scheme, quantize
from vlm_mu_jax.model.stored import StoredLinear, hold, merged, shardings
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel.mesh import make_mesh

PARAMS = random_params(LLAVA)


@pytest.mark.parametrize("text", ["int8", "int4:5", "nf4:8"])  # 5: an odd group, and a last one that is smaller
def test_a_held_model_answers_as_the_rounded_one(text):
    scheme, batch = Scheme.parse(text), pad(*mixed_rows())
    held, rounded = hold(PARAMS, scheme), quantize(PARAMS, scheme)
    for name, leaf in merged(held, None)["decoder"]["layers"].items():
        np.testing.assert_array_equal(leaf, rounded["decoder"]["layers"][name], err_msg=name)
    got, want = (run(params, batch, cfg=LLAVA).logits_BTV for params in (held, rounded))
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_bytes_are_those_of_the_bits():
    w = {name: PARAMS["decoder"]["layers"][name] for name in LINEARS}
    for text, bits in (("int8", 8), ("int4:8", 4), ("nf4:8", 4)):
        held = hold(PARAMS, Scheme.parse(text))["decoder"]["layers"]
        for name in LINEARS:
            assert held[name].codes.nbytes * 8 == w[name].size * bits and held[name].shape == w[name].shape
            outputs = w[name].size // np.prod(w[name].shape[: 1 + INPUT_AXES.get(name, 1)])
            groups = 1 if text == "int8" else w[name].size // w[name].shape[0] // outputs // 8
            assert held[name].scale.size == w[name].shape[0] * groups * outputs


def test_the_backward_pass_keeps_codes_and_no_weights():
    layer = jax.tree.map(lambda x: x[0], hold(PARAMS, Scheme.parse("int8"))["decoder"]["layers"]["wup_LDF"])
    x = jnp.ones((2, 16))
    _, backward = jax.vjp(layer.product, x)
    floats = [leaf.shape for leaf in jax.tree.leaves(backward) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert (16, 24) not in floats
    np.testing.assert_allclose(backward(jnp.ones((2, 24)))[0], jnp.ones((2, 24)) @ layer.array().T, rtol=1e-5)


def test_codes_are_split_as_their_weights_are():
    mesh, specs = make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:1] * 4), param_specs(LLAVA)
    for text, of_codes in (("int4:8", (None, "fsdp", None, "tensor")), ("int8", (None, None, "fsdp", "tensor"))):
        held = hold(PARAMS, Scheme.parse(text))["decoder"]["layers"]["wq_LDNH"]
        found = shardings(held, "wq", specs["decoder"]["layers"]["wq_LDNH"], mesh)
        assert isinstance(found, StoredLinear) and found.codes.spec == PartitionSpec(*of_codes)
        assert found.scale.spec[-1] == "tensor"
