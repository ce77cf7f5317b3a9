"""The Flax module is the functional core under another name, and plain optax trains it."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vlm_mu_jax
from tests.attacks.conftest import tiny_model
from tests.model.tiny import LLAVA, TEXT_ONLY, mixed_rows, pad, random_params
from vlm_mu_jax.model.flax_model import FlaxModel
from vlm_mu_jax.model.lora import adapters, lora_specs
from vlm_mu_jax.model.params import abstract_params
from vlm_mu_jax.model.vlm import forward, param_specs

ROWS, IMAGES = mixed_rows()
BATCH = pad(ROWS, IMAGES)
PARAMS = random_params(LLAVA)
LORA = FlaxModel(LLAVA, lora_rank=2, lora_alpha=4.0, lora_targets=("wq.*", "wdown.*"))


def test_it_is_part_of_the_api():
    assert vlm_mu_jax.FlaxModel is FlaxModel


@pytest.mark.parametrize("cfg", [LLAVA, TEXT_ONLY], ids=["llava", "text"])
def test_init_gives_the_functional_tree(cfg):
    batch = BATCH if cfg.vision else pad(ROWS[1:2])
    variables = jax.eval_shape(FlaxModel(cfg, param_dtype=jnp.bfloat16).init, jax.random.key(0), batch)
    assert variables == {"params": abstract_params(param_specs(cfg), jnp.bfloat16)}


def test_adapters_are_a_collection_of_their_own():
    variables = jax.eval_shape(LORA.init, jax.random.key(0), BATCH)
    declared = abstract_params(lora_specs(param_specs(LLAVA), LORA.lora_targets, 2))
    assert variables == {"params": abstract_params(param_specs(LLAVA)), "lora": declared}
    alone = LORA.init_lora(jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(alone, declared)
    assert not any(pair["b"].any() for pair in alone["decoder"]["layers"].values())


def test_apply_equals_forward():
    module = FlaxModel(LLAVA)
    got = jax.jit(lambda p: module.apply({"params": p}, BATCH, tap="last", upto=1))(PARAMS)
    want = jax.jit(lambda p: forward(p, BATCH, LLAVA, tap="last", upto=1))(PARAMS)
    chex.assert_trees_all_equal(got, want)
    full = jax.jit(lambda p: (module.apply({"params": p}, BATCH).logits_BTV, forward(p, BATCH, LLAVA).logits_BTV))
    np.testing.assert_array_equal(*full(PARAMS))


def test_with_the_lora_collection_the_adapters_are_added_and_without_it_they_are_off():
    pairs = jax.tree.map(lambda leaf: leaf + 0.1, LORA.init_lora(jax.random.key(1)))

    @jax.jit
    def run(params, pairs):
        return (
            LORA.apply({"params": params, "lora": pairs}, BATCH).logits_BTV,
            forward(params, BATCH, LLAVA, lora=adapters(pairs, 2.0, jnp.float32)).logits_BTV,
            LORA.apply({"params": params}, BATCH).logits_BTV,
            forward(params, BATCH, LLAVA).logits_BTV,
        )

    on, want_on, off, want_off = run(PARAMS, pairs)
    chex.assert_trees_all_equal((on, off), (want_on, want_off))
    assert np.abs(on - off).max() > 0.1


def test_weights_of_another_shape_are_refused():
    params = PARAMS | {"decoder": PARAMS["decoder"] | {"norm_D": jnp.ones(5)}}
    with pytest.raises(Exception, match="shape"):
        FlaxModel(LLAVA).apply({"params": params}, BATCH)


@pytest.mark.parametrize("collection", ["params", "lora"])
def test_plain_optax_trains_either_collection(collection):
    """As docs/flax.md does. The other collection stays as it was: it is no argument of the gradient."""
    variables = {"params": PARAMS, "lora": LORA.init_lora(jax.random.key(0))}
    optimizer = optax.adam(1e-2)
    targets = jnp.roll(BATCH.tokens_BT, -1, axis=1)
    mask = (jnp.arange(targets.shape[1])[None] < BATCH.lengths_B[:, None] - 1) & (targets != LLAVA.image_token_id)

    def loss(trained, others):
        logits = LORA.apply({**others, collection: trained}, BATCH).logits_BTV
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (nll * mask).sum() / mask.sum()

    @jax.jit
    def step(variables, state):
        others = {name: tree for name, tree in variables.items() if name != collection}
        value, gradient = jax.value_and_grad(loss)(variables[collection], others)
        updates, state = optimizer.update(gradient, state)
        return {**others, collection: optax.apply_updates(variables[collection], updates)}, state, value

    state, losses = optimizer.init(variables[collection]), []
    for _ in range(6):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.2, losses
    assert np.all(np.diff(losses) < 0), losses


def test_the_guide_runs_as_it_stands(root, monkeypatch):
    """docs/flax.md, on a tiny model in place of runs/base: the loss falls, and the merged weights are a whole model."""
    model = tiny_model()
    monkeypatch.setattr(vlm_mu_jax, "load", lambda folder: model, raising=False)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (root / "docs" / "flax.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)  # noqa: S102 (our own guide)
    assert names["losses"][-1] < names["losses"][0]
    assert names["answer"].tokens_BG.shape == (2, 8)
    chex.assert_trees_all_equal_shapes(names["merged"], model.params)
