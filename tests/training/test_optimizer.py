"""Learning rate schedule, decay mask, clipping."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training.optimizer import OptimConfig, learning_rate, make_optimizer


def test_warm_up_then_cosine_to_zero():
    rate = learning_rate(OptimConfig(1.0, warmup=0.1), 100)
    values = np.array([rate(k) for k in range(101)])
    assert 0 < values[0] < values[5] < values[10] == 1.0 and values.argmax() == 10
    assert (np.diff(values[10:]) <= 0).all() and values[100] == 0
    assert values[55] == pytest.approx(0.5, abs=1e-6)


def test_constant_without_warm_up():
    rate = learning_rate(OptimConfig(0.5, schedule="constant", warmup=0.0), 10)
    assert [float(rate(k)) for k in (0, 9)] == [0.5, 0.5]


def test_weight_decay_spares_norms_and_biases():
    names = (
        "wq_LDNH",
        "embed_VD",
        "patch_CD",
        "a",
        "b",
        "attn_norm_LD",
        "bq_LNH",
        "b1_D",
        "norm_D",
        "post_norm_bias_D",
    )
    params = {name: jnp.ones((2, 2)) for name in names}
    optimizer = make_optimizer(OptimConfig(1.0, warmup=0.0, weight_decay=0.1), 10)
    updates, _ = optimizer.update({name: jnp.zeros((2, 2)) for name in names}, optimizer.init(params), params)
    assert [name for name in names if jnp.abs(updates[name]).max() > 0] == ["wq_LDNH", "embed_VD", "patch_CD", "a", "b"]


def test_bad_values_are_named():
    nan = float("nan")
    for bad in (
        {"schedule": "linear"},
        {"learning_rate": -1.0},
        {"warmup": 2.0},
        {"b1": 2},
        {"eps": nan},
        {"clip": -1},
    ):
        with pytest.raises(InputError, match=f"optim.{next(iter(bad))}"):
            OptimConfig(**bad)
