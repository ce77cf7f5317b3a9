"""Latent adversarial training: the attack against a PyTorch statement of the public code, and its place in the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.training import tiny
from tests.training.test_step import with_micro
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.objectives.reading import Read, class_mask
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.objectives.token_losses import NLL
from vlm_mu_jax.training.latent import latent_attack
from vlm_mu_jax.training.model_policy import ModelPolicy
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.robust import PLAIN, Robust
from vlm_mu_jax.training.step import TrainState, make_step
from vlm_mu_jax.training.trainable import Selection, dtypes, split

ROBUST = Robust("latent", length=0.7, steps=5, layers=(1,), rate=0.3)


@pytest.fixture(scope="module")
def rows():
    return jax.tree.map(jnp.asarray, tiny.stream()[0])


def test_the_attack_is_that_of_the_public_code(rows, rng):
    """On a quadratic, beside latent_at's loop: AdamW from zero on prompt positions, then a clip of every norm."""
    batch = with_micro(rows, 1)
    target = rng.normal(size=(1, 2, *rows.batch.tokens_BT.shape, tiny.TEXT.text.D)).astype(np.float32)
    found = latent_attack(lambda _, delta: delta - target, batch, tiny.TEXT, ROBUST)
    prompt_BT = np.array(class_mask(rows, None, ("prompt",)))
    attack = torch.nn.Parameter(torch.zeros(target.shape[2:]))
    optimizer = torch.optim.AdamW([attack], lr=ROBUST.rate)
    for _ in range(ROBUST.steps):
        optimizer.zero_grad()
        (0.5 * ((attack - torch.tensor(target[0, 1]))[torch.tensor(prompt_BT)] ** 2).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            attack.div_(torch.clamp(attack.norm(dim=-1, keepdim=True) / ROBUST.length, min=1))
    np.testing.assert_allclose(found[0, 1], attack.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert not np.abs(found[0, 0]).max() and not np.abs(found[0, 1][~prompt_BT]).max()
    np.testing.assert_allclose(jnp.linalg.norm(found[0, 1], axis=-1).max(), 0.7, rtol=1e-5)


def test_delta_stands_behind_its_block_of_forget_rows_alone(params, rows):
    delta = 0.1 * jax.random.normal(jax.random.key(0), (1, *rows.batch.tokens_BT.shape, tiny.TEXT.text.D))

    def seen(latent):
        policy = ModelPolicy(params, None, params, tiny.TEXT, {}, 2, latent)
        read = Read((NLL(),), layers=(0,), reference=True)
        return policy.read({"forget": rows, "retain": rows}, {"forget": read, "retain": read})

    found, calm = seen(delta), seen(None)
    moved = found["forget"].hidden[0] - calm["forget"].hidden[0]
    np.testing.assert_allclose(moved, delta[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["forget"].reference[0], calm["forget"].hidden[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["retain"].sums[NLL()], calm["retain"].sums[NLL()], rtol=1e-5)
    assert np.abs(found["forget"].sums[NLL()] - calm["forget"].sums[NLL()]).min() > 1e-4


def one_step(params, robust, micro=1):
    """Metrics and change of the trained slices after one step."""
    objective = make_objective("npo", beta=0.5)
    selection = Selection.of(select=[], slices={"decoder/layers/wdown_LFD": [1]})
    trainable, frozen = split(params, selection, param_specs(tiny.TEXT), jax.random.key(0), False)
    before = np.asarray(flatten(trainable)["slices/decoder/layers/wdown_LFD"])
    optimizer = make_optimizer(OptimConfig(1e-2, schedule="constant", warmup=0.0, eps=1.0), 10)
    step = make_step(tiny.TEXT, objective, selection, dtypes(params), optimizer, robust=robust)
    batches = {name: stream[0] for name, stream in tiny.streams(objective).items()}
    batches["forget"] = batches["forget"].replace(reference_nll_B=np.full(8, 9.0, np.float32))
    state = TrainState(jnp.int32(0), trainable, optimizer.init(trainable))
    state, metrics = step(state, frozen, {n: with_micro(b, micro) for n, b in batches.items()}, {})
    return metrics, np.asarray(flatten(state.trainable)["slices/decoder/layers/wdown_LFD"]) - before


def test_the_forget_terms_meet_the_attack_and_micro_batches_add_up(params):
    plain, attacked, pieces = (one_step(params, *args) for args in ((PLAIN,), (ROBUST,), (ROBUST, 4)))
    assert attacked[0]["forget_nll"] < plain[0]["forget_nll"]  # the attacker makes the answers likely
    np.testing.assert_allclose(attacked[0]["retain_nll"], plain[0]["retain_nll"], rtol=1e-6)
    np.testing.assert_allclose(attacked[0]["loss"], pieces[0]["loss"], rtol=1e-3)
    np.testing.assert_allclose(attacked[1], pieces[1], rtol=2e-2, atol=1e-7)


def test_bad_options_are_refused(rows):
    for bad in ({}, {"layers": (1,), "rate": 0.0}, {"layers": (-1,)}):
        with pytest.raises(InputError, match="robust"):
            Robust("latent", **bad)
    with pytest.raises(InputError, match=r"robust.layers: \(2,\)"):
        latent_attack(None, with_micro(rows, 1), tiny.TEXT, Robust("latent", layers=(2,)))
