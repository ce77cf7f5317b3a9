"""bfloat16 weights as a CPU reads them: the same products, and no float32 copy of a stack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import TEXT_ONLY, random_params, text_batch
from vlm_mu_jax.model import generate as module
from vlm_mu_jax.model.vlm import cast, logits_of
from vlm_mu_jax.model.wide import WideMap, widened

UNTIED = dataclasses.replace(TEXT_ONLY, text=dataclasses.replace(TEXT_ONLY.text, tie_embeddings=False))
TIED = dataclasses.replace(TEXT_ONLY, text=dataclasses.replace(TEXT_ONLY.text, tie_embeddings=True))
ROUNDING = {"rtol": 2.0**-8, "atol": 1e-6}  # of one bfloat16 number


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def bits(x):
    return jax.lax.bitcast_convert_type(x, jnp.uint16)


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 1), (1, 1)])
@pytest.mark.parametrize("shape, inputs", [((16, 24), 1), ((16, 2, 8), 1), ((2, 8, 24), 2)])
def test_products_are_those_of_float32_rounded_once(rows, shape, inputs):
    x, w = drawn(*rows, 16), drawn(*shape, seed=1)
    expected = np.asarray(x, np.float32) @ np.asarray(w, np.float32).reshape(16, -1)
    made = WideMap(bits(w), inputs).product(x)
    assert made.shape == (*rows, *shape[inputs:]) and made.dtype == jnp.bfloat16
    np.testing.assert_allclose(made.astype(np.float32).reshape(*rows, -1), expected, **ROUNDING)


@pytest.mark.parametrize("cfg", [TIED, UNTIED])
def test_the_head_reads_the_table_where_it_lies(cfg):
    params, hidden = cast(random_params(cfg), jnp.bfloat16), drawn(1, cfg.text.D)
    made = logits_of(widened(params), hidden, cfg)
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, logits_of(params, hidden, cfg), rtol=1e-4, atol=1e-4)
    assert "transpose" not in str(jax.make_jaxpr(lambda p, h: logits_of(widened(p), h, cfg))(params, hidden))


@pytest.mark.parametrize("cfg", [TIED, UNTIED])
def test_answers_are_those_of_the_weights_as_they_were(cfg, monkeypatch):
    params, batch = cast(random_params(cfg), jnp.bfloat16), text_batch([[3, 4, 5], [6, 7]])
    made = module.generate(params, batch, cfg, max_new_tokens=4)
    monkeypatch.setattr(module, "widened", lambda params: params)
    expected = jax.jit(lambda: module._generate(params, batch, cfg, max_new_tokens=4))()
    np.testing.assert_array_equal(made.tokens_BG, expected.tokens_BG)
    np.testing.assert_allclose(made.logprobs_BG, expected.logprobs_BG, atol=0.05)


def test_other_weights_are_left_alone():
    params = random_params(UNTIED)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (params, widened(params))), strict=True))


def test_a_scan_carries_no_float32_copy_of_the_stack():
    def product_chain(stack, x):
        read = widened({"decoder": {"embed_VD": stack[0], "layers": {"wup_LDF": stack}}})["decoder"]["layers"]
        return jax.lax.scan(lambda x, layer: (layer["wup_LDF"].product(x), None), x, read)[0]

    compiled = jax.jit(product_chain).lower(drawn(3, 16, 16), drawn(2, 16)).compile().as_text()
    assert "[3,16,16]" in compiled and "f32[3,16,16]" not in compiled
