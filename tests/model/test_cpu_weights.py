"""Weights as a CPU reads them: the same answers, and no copy of a stack where none is needed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import TEXT_ONLY, random_params, text_batch
from vlm_mu_jax.model import cpu_weights
from vlm_mu_jax.model import generate as module
from vlm_mu_jax.model.cpu_weights import ApartMap, WideMap, for_cpu
from vlm_mu_jax.model.lora import LINEARS, adapters, init_lora
from vlm_mu_jax.model.vlm import cast, forward, logits_of, param_specs

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
    read = for_cpu(params)
    made = logits_of(read, hidden, cfg)
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, logits_of(params, hidden, cfg), rtol=1e-4, atol=1e-4)
    assert "transpose" not in str(jax.make_jaxpr(lambda p, h: logits_of(p, h, cfg))(read, hidden))


@pytest.mark.parametrize("cfg", [TIED, UNTIED])
def test_answers_are_those_of_the_weights_as_they_were(cfg, monkeypatch):
    params, batch = cast(random_params(cfg), jnp.bfloat16), text_batch([[3, 4, 5], [6, 7]])
    made = module.generate(params, batch, cfg, max_new_tokens=4)
    expected = module.generate_program(params, batch, cfg, max_new_tokens=4)
    np.testing.assert_array_equal(made.tokens_BG, expected.tokens_BG)
    np.testing.assert_allclose(made.logprobs_BG, expected.logprobs_BG, atol=0.05)


def test_small_float32_weights_are_left_alone():
    params = random_params(UNTIED)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (params, for_cpu(params, rows=1))), strict=True))


def test_bfloat16_weights_share_their_memory():
    params = cast(random_params(UNTIED), jnp.bfloat16)
    stack, read = (p["decoder"]["layers"]["wup_LDF"] for p in (params, for_cpu(params)))
    assert read.array.dtype == jnp.uint16
    assert read.array.unsafe_buffer_pointer() == stack.unsafe_buffer_pointer()


def test_what_is_prepared_already_stays_as_it_is():
    read = for_cpu(cast(random_params(TIED), jnp.bfloat16))
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (read, for_cpu(read))), strict=True))


def test_a_traced_stack_is_left_alone():
    params = cast(random_params(UNTIED), jnp.bfloat16)
    kinds = []

    def program(params):
        kinds.append(type(for_cpu(params)["decoder"]["layers"]["wup_LDF"]))
        return params["decoder"]["norm_D"]

    jax.jit(program)(params)
    assert not issubclass(kinds[0], WideMap)


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(cpu_weights, "LARGE", 1)


@pytest.mark.parametrize("long", [False, True])
def test_layers_apart_give_the_same_answers(any_size, long, monkeypatch):
    monkeypatch.setattr(module, "LONG", 2 if long else 128)
    params, batch = random_params(UNTIED), text_batch([[3, 4, 5], [6, 7]])
    apart = for_cpu(params, rows=2)
    assert isinstance(apart["decoder"]["layers"]["wo_LNHD"], ApartMap)
    run = functools.partial(module.generate_program, cfg=UNTIED, max_new_tokens=4 + long)  # a program of its own
    made, expected = run(apart, batch), run(params, batch)
    np.testing.assert_array_equal(made.tokens_BG, expected.tokens_BG)
    np.testing.assert_allclose(made.logprobs_BG, expected.logprobs_BG, atol=1e-5)


def test_layers_apart_take_adapters(any_size):
    params, batch = random_params(UNTIED), text_batch([[3, 4, 5]])
    pairs = init_lora(param_specs(UNTIED), (".*",), 2, jax.random.key(0))
    lora = adapters(jax.tree.map(lambda x: x + 0.1, pairs), 1.0, jnp.float32)
    apart, stacked = (forward(p, batch, UNTIED, lora=lora).logits_BTV for p in (for_cpu(params, rows=1), params))
    np.testing.assert_allclose(apart, stacked, rtol=1e-5, atol=1e-5)


def test_copies_that_take_too_much_memory_are_not_made(any_size, monkeypatch):
    params = random_params(UNTIED)
    stacks = [params["decoder"]["layers"][name] for name in LINEARS]
    monkeypatch.setattr(cpu_weights, "memory_of", lambda devices: 8 * sum(stack.nbytes for stack in stacks) - 1)
    assert isinstance(for_cpu(params, rows=1)["decoder"]["layers"]["wup_LDF"], jax.Array)


def test_many_rows_read_the_stack(any_size):
    params = random_params(UNTIED)
    assert isinstance(for_cpu(params, cpu_weights.FEW_ROWS + 1)["decoder"]["layers"]["wup_LDF"], jax.Array)
    assert isinstance(for_cpu(params)["decoder"]["layers"]["wup_LDF"], jax.Array)


def test_a_scan_carries_no_float32_copy_of_the_stack():
    stack = drawn(3, 16, 16)
    read = for_cpu({"decoder": {"embed_VD": stack[0], "layers": {"wup_LDF": stack}}})["decoder"]["layers"]

    def product_chain(read, x):
        return jax.lax.scan(lambda x, layer: (layer["wup_LDF"].product(x), None), x, read)[0]

    compiled = jax.jit(product_chain).lower(read, drawn(2, 16)).compile().as_text()
    assert "[3,16,16]" in compiled and "f32[3,16,16]" not in compiled
