"""The Flax module is the functional core under another name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, TEXT_ONLY, mixed_rows, pad, random_params
from vlm_mu_jax.model.flax_module import LlavaModule
from vlm_mu_jax.model.llava import forward, param_specs
from vlm_mu_jax.model.params import abstract_params

ROWS, IMAGES = mixed_rows()
BATCH = pad(ROWS, IMAGES)


@pytest.mark.parametrize("cfg", [LLAVA, TEXT_ONLY], ids=["llava", "text"])
def test_init_gives_the_functional_tree(cfg):
    batch = BATCH if cfg.vision else pad(ROWS[1:2])
    variables = jax.eval_shape(LlavaModule(cfg, jnp.bfloat16).init, jax.random.key(0), batch)
    assert variables == {"params": abstract_params(param_specs(cfg), jnp.bfloat16)}


def test_apply_equals_forward():
    module, params = LlavaModule(LLAVA), random_params(LLAVA)
    got = jax.jit(lambda p: module.apply({"params": p}, BATCH, tap="last", upto=1))(params)
    want = jax.jit(lambda p: forward(p, BATCH, LLAVA, tap="last", upto=1))(params)
    np.testing.assert_array_equal(got.hidden_BTD, want.hidden_BTD)
    np.testing.assert_array_equal(got.taps, want.taps)
    full = jax.jit(lambda p: (module.apply({"params": p}, BATCH).logits_BTV, forward(p, BATCH, LLAVA).logits_BTV))
    np.testing.assert_array_equal(*full(params))


def test_weights_of_another_shape_are_refused():
    params = random_params(LLAVA)
    params["decoder"] = params["decoder"] | {"norm_D": jnp.ones(5)}
    with pytest.raises(Exception, match="shape"):
        LlavaModule(LLAVA).apply({"params": params}, BATCH)
