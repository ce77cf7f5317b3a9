"""What the model tells objectives: now and before training, token losses and activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.lora import adapters, init_lora, merge
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.vlm import forward, param_specs
from vlm_mu_jax.objectives.reading import Read
from vlm_mu_jax.objectives.token_losses import KL, NLL
from vlm_mu_jax.training.model_policy import ModelPolicy

READ = Read((NLL(), KL()), (0,), reference=True)


@pytest.fixture(scope="module")
def rows():
    return jax.tree.map(jnp.asarray, tiny.stream()[0])


def test_a_reading_is_what_forward_says_with_and_without_the_adapter(params, rows):
    pairs = init_lora(param_specs(tiny.TEXT), (".*",), 2, jax.random.key(3))
    pairs = unflatten({path: x + 0.3 for path, x in flatten(pairs).items()})
    lora = adapters(pairs, 0.5, jnp.float32)
    now = merge(params, lora)

    @jax.jit
    def read(params):
        seen = ModelPolicy(params, lora, params, tiny.TEXT, {}).read({"a": rows}, {"a": READ})["a"]
        return seen.sums[NLL()], seen.sums[KL()], seen.hidden[0], seen.reference[0]

    nll_B, kl_B, hidden_BTD, reference_BTD = read(params)
    current, before = (jax.nn.log_softmax(forward(p, rows.batch, tiny.TEXT).logits_BTV[:, :-1]) for p in (now, params))
    mask, targets = np.asarray(rows.mask_BT[:, 1:]), rows.batch.tokens_BT[:, 1:, None]
    want = -np.asarray(jnp.take_along_axis(current, targets, axis=-1)[..., 0])
    np.testing.assert_allclose(nll_B, (want * mask).sum(axis=1), rtol=1e-4)
    divergence = np.asarray((jnp.exp(before) * (before - current)).sum(axis=-1))
    np.testing.assert_allclose(kl_B, (divergence * mask).sum(axis=1), rtol=1e-3, atol=1e-6)
    assert kl_B.min() > 1e-3
    for got, weights in ((hidden_BTD, now), (reference_BTD, params)):
        np.testing.assert_allclose(
            got, forward(weights, rows.batch, tiny.TEXT, upto=0).hidden_BTD, rtol=1e-4, atol=1e-5
        )


def test_nothing_that_is_not_asked_for_is_read(params, rows):
    policy = ModelPolicy(params, None, None, tiny.TEXT, {})  # no reference at all
    seen = policy.read({"a": rows, "b": rows}, {"a": Read(layers=(1,))})
    assert seen.keys() == {"a"} and not seen["a"].sums and not seen["a"].reference


def test_a_layer_that_does_not_exist_is_named(params, rows):
    with pytest.raises(InputError, match=r"layer 2; the decoder has 0\.\.1"):
        ModelPolicy(params, None, None, tiny.TEXT, {}).read({"a": rows}, {"a": Read(layers=(2,))})


def test_a_window_changes_no_sum(params, rows):
    assert rows.window_BW is not None and rows.window_BW.shape[1] < rows.mask_BT.shape[1]
    seen = [
        ModelPolicy(params, None, params, tiny.TEXT, {}).read({"a": batch}, {"a": READ})["a"].sums
        for batch in (rows, rows.replace(window_BW=None))
    ]
    np.testing.assert_allclose(seen[0][NLL()], seen[1][NLL()], rtol=1e-5)


def test_blocks_that_both_weights_share_run_once_and_change_nothing(params, rows):
    changed = unflatten(dict(flatten(params)))
    down = params["decoder"]["layers"]["wdown_LFD"]
    changed["decoder"]["layers"]["wdown_LFD"] = down.at[1].add(0.3)
    read = Read((NLL(), KL()), layers=(0, 1), reference=True)

    def seen(shared):
        policy = ModelPolicy(changed, None, params, tiny.TEXT, {}, shared)
        found = policy.read({"a": rows}, {"a": read})["a"]
        return found.sums[NLL()], found.sums[KL()], found.hidden[1], found.reference[1]

    def blocks(shared):
        """Decoder blocks in the program."""
        program = jax.make_jaxpr(lambda: seen(shared))().jaxpr
        return sum(e.params["length"] for e in program.eqns if e.primitive.name == "scan")

    for got, want in zip(seen(1), seen(None), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert (blocks(None), blocks(1)) == (4, 3)
