"""Both readings of NPO and RMU against a PyTorch statement of the published formulas."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.fake_policy import FakePolicy, rows, value
from vlm_mu_jax.objectives.npo import NPO
from vlm_mu_jax.objectives.rmu import RMU

torch = pytest.importorskip("torch")
B, T, V, D = 3, 8, 13, 6


@pytest.fixture(scope="module")
def peer():
    from tests.conftest import ROOT

    spec = importlib.util.spec_from_file_location("unlearning_losses", ROOT / "third_party/peers/unlearning_losses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def case(rng):
    logits = {name: rng.normal(size=(B, T, V)).astype(np.float32) for name in ("forget", "retain", "f_ref", "r_ref")}
    tokens = rng.integers(0, V, (B, T))
    mask = rng.random((B, T)) < 0.5
    mask[:, 1] = True
    labels = np.where(mask, tokens, -100)
    return logits, tokens, mask, labels


def ours(objective, logits, tokens, mask):
    def policy(name):
        return FakePolicy(lambda r: jnp.asarray(logits[name]), lambda h: h)

    streams = {
        name: rows(tokens, mask, reference=policy(ref).nll(rows(tokens, mask))[0])
        for name, ref in (("forget", "f_ref"), ("retain", "r_ref"))
    }
    chosen = FakePolicy(lambda r: jnp.asarray(logits["forget" if r is streams["forget"] else "retain"]), lambda h: h)
    return value(objective, chosen, streams)


def as_torch(*arrays):
    return [torch.as_tensor(a) for a in arrays]


@pytest.mark.parametrize("beta", [0.1, 0.9, 3.0])
def test_npo_as_paper(peer, case, beta):
    logits, tokens, mask, labels = case
    f, f_ref, r, y = as_torch(logits["forget"], logits["f_ref"], logits["retain"], labels)
    want = peer.npo_sequence_sum(f, f_ref, y, beta) + 2.0 * peer.batch_ce(r, y)
    np.testing.assert_allclose(ours(NPO(beta=beta, retain_weight=2.0), logits, tokens, mask), want.item(), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 0.9])
def test_npo_as_code(peer, case, beta):
    logits, tokens, mask, labels = case
    f, f_ref, r, r_ref, y = as_torch(*(logits[k] for k in ("forget", "f_ref", "retain", "r_ref")), labels)
    want = peer.npo_batch_token_mean(f, f_ref, y, beta) + peer.npo_retain(r, r_ref, y, beta) + peer.batch_ce(r, y)
    np.testing.assert_allclose(ours(NPO(reading="as_code", beta=beta), logits, tokens, mask), want.item(), rtol=1e-5)


def test_rmu_both_readings(peer, rng):
    hidden, retain, frozen = (rng.normal(size=(B, T, D)).astype(np.float32) for _ in range(3))
    lengths = np.array([8, 5, 6])
    tokens, mask = rng.integers(0, V, (B, T)), np.zeros((B, T), bool)
    streams = {"forget": rows(tokens, mask, lengths), "retain": rows(tokens, mask, lengths)}

    def loss(objective):
        policy = FakePolicy(
            lambda r: jnp.asarray(hidden if r is streams["forget"] else retain),
            reference_of=lambda r: jnp.asarray(frozen), constants=objective.constants(D, 5),
        )  # fmt: skip
        return value(objective, policy, streams)

    code = RMU(layer=0, reading="as_code", retain_alpha=1.5, retain_weight=0.0)
    control = torch.as_tensor(np.array(code.constants(D, 5)["control_D"]))
    want = peer.rmu_code(*as_torch(hidden), control, *as_torch(retain, frozen), 1.5)
    np.testing.assert_allclose(loss(code), want.item(), rtol=1e-5)
    real = torch.as_tensor(np.arange(T)[None] < lengths[:, None])
    want = peer.rmu_paper(*as_torch(hidden), control, real)
    np.testing.assert_allclose(loss(RMU(layer=0, retain_alpha=0.0, retain_weight=0.0)), want.item(), rtol=1e-5)
