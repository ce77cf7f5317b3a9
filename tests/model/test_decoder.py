"""The decoder: causality, scan, remat, caches and steering, each against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import LLAVA, TEXT, TEXT_ONLY, random_params, run, text_batch, text_cfg
from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.config import RopeScaling
from vlm_mu_jax.model.layers import REMAT_POLICIES
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import Batch, forward

L, D = TEXT.L, TEXT.D
PARAMS = random_params(LLAVA)
# The same float32 sums in another order: a few roundings of 6e-8 through three layers, logits of order 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def steer(strength=0.0, shift=0.0, layers=(1,), rank=1, threshold=0.0, gate=None, seed=0, **static):
    """Steer at `layers` with random orthonormal rows."""
    rng = np.random.default_rng(seed)
    on = np.isin(np.arange(L), layers).astype(np.float32)
    basis = np.stack([np.linalg.qr(rng.normal(size=(D, rank)))[0].T for _ in range(L)]).astype(np.float32)
    return Steer(
        basis_LMD=jnp.asarray(basis * on[:, None, None]),
        strength_L=jnp.asarray(strength * on),
        shift=jnp.asarray(shift * on[:, None] * rng.normal(size=(L, D)).astype(np.float32)),
        threshold_L=jnp.full((L,), threshold, jnp.float32),
        gate_LB=gate,
        **static,
    )


def taps(steer=None, batch=None, cfg=TEXT_ONLY):
    return np.asarray(run(PARAMS, batch or text_batch(), cfg, tap="all", steer=steer).taps)


def test_unrolled_layers_equal_the_scan():
    want = run(PARAMS, text_batch(), TEXT_ONLY).logits_BTV
    np.testing.assert_allclose(run(PARAMS, text_batch(), TEXT_ONLY.with_text(unroll=L)).logits_BTV, want, **CLOSE)


@functools.partial(jax.jit, static_argnums=1)
def loss_and_gradient(params, cfg):
    return jax.value_and_grad(lambda p: (forward(p, text_batch(), cfg).logits_BTV ** 2).mean())(params)


@pytest.mark.parametrize("policy", sorted(set(REMAT_POLICIES) - {"none"}))
def test_remat_changes_neither_values_nor_gradients(policy):
    want, want_gradient = loss_and_gradient(PARAMS, TEXT_ONLY)
    got, gradient = loss_and_gradient(PARAMS, TEXT_ONLY.with_text(remat=policy))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_a_sliding_window_reaches_exactly_its_width_back():
    """Through one layer; through l layers it reaches l times as far."""
    cfg, batch = TEXT_ONLY.with_text(sliding_window=3), text_batch(T=9)
    for layer in range(2):
        reach = (layer + 1) * 2  # a query reads itself and 2 earlier tokens
        want = taps(batch=batch, cfg=cfg)[layer]
        for s in range(9):
            tokens = batch.tokens_BT.at[:, s].set((batch.tokens_BT[:, s] + 5) % 29)
            moved = np.abs(taps(batch=batch.replace(tokens_BT=tokens), cfg=cfg)[layer] - want).max(axis=(0, 2)) > 0
            assert moved.tolist() == [s <= t <= s + reach for t in range(9)]


def test_a_window_as_long_as_the_row_is_no_window():
    np.testing.assert_array_equal(taps(cfg=TEXT_ONLY.with_text(sliding_window=7)), taps())


CACHED = {
    "plain": {},
    "window": {"sliding_window": 3},
    "local and global layers, four norms a block": {
        "sliding_window": 3,
        "windowed": (True, False, True),
        "window_rope_theta": 100.0,
        "qk_norm": True,
        "post_norms": True,
        "norm_offset": True,
        "query_scalar": 5.0,
        "embed_scale": 4.0,
        "activation": "gelu_pytorch_tanh",
    },
    "one key head, biases, rope": {
        "K": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": RopeScaling("linear", 2.0),
    },
}


@pytest.mark.parametrize("name", CACHED)
def test_prefill_and_decode_equal_the_full_forward(name):
    """Prompts of different lengths in one batch, each continued at its own place by two tokens and by one more."""
    cfg, prompts = TEXT_ONLY.with_text(**CACHED[name]), jnp.array([6, 3])
    params, rows = random_params(cfg), jnp.arange(2)[:, None]
    whole = text_batch(T=9, lengths=[9, 6])
    want = run(params, whole, cfg).logits_BTV
    first = run(params, Batch(whole.tokens_BT[:, :6], prompts), cfg, keep_cache=True)
    past, at = (first.cache,), prompts[:, None]
    np.testing.assert_allclose(first.logits_BTV[rows, at - 1], want[rows, at - 1], **CLOSE)
    for count in (2, 1):
        places = at + jnp.arange(count)[None]
        batch = Batch(whole.tokens_BT[rows, places], jnp.full(2, count))
        out = run(params, batch, cfg, past=past, offset_B=at[:, 0], keep_cache=True)
        np.testing.assert_allclose(out.logits_BTV, want[rows, places], **CLOSE)
        past, at = (*past, out.cache), at + count


def test_a_prefix_shared_by_all_rows_equals_the_prefix_in_every_row():
    """One copy of its keys and values, [L, S, K, H], serves rows with different continuations."""
    prefix, rest = text_batch(seed=1, B=1, T=5), text_batch(seed=2, T=4, lengths=[4, 2])
    whole = jnp.concatenate([jnp.tile(prefix.tokens_BT, (2, 1)), rest.tokens_BT], 1)
    want = run(PARAMS, Batch(whole, rest.lengths_B + 5), TEXT_ONLY).logits_BTV[:, 5:]
    one = run(PARAMS, prefix, TEXT_ONLY, keep_cache=True).cache
    shared = KV(one.k[:, 0], one.v[:, 0], one.positions_BS, one.valid_BS)
    got = run(PARAMS, rest, TEXT_ONLY, past=(shared,), offset_B=jnp.full(2, 5)).logits_BTV
    for row, n in enumerate((4, 2)):
        np.testing.assert_allclose(got[row, :n], want[row, :n], **CLOSE)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("guard", [None, "all", "last"])
def test_last_only_gives_each_rows_last_token_as_the_whole_forward_does(window, guard):
    """With a shared prefix, steering that gates itself in every layer, and the last layer's keys for later tokens."""
    cfg, rows = TEXT_ONLY.with_text(sliding_window=window), jnp.arange(2)
    steering = guard and steer(strength=1.5, layers=(0, 2), scope=guard, gated=True)
    prefix = run(PARAMS, text_batch(seed=1, B=1), cfg, keep_cache=True).cache
    past = (KV(prefix.k[:, 0], prefix.v[:, 0], prefix.positions_BS, prefix.valid_BS),)
    inputs = {"past": past, "offset_B": jnp.array([7, 7]), "steer": steering, "tap": "last", "keep_cache": True}
    batch = text_batch(lengths=[7, 4])
    want, got = (run(PARAMS, batch, cfg, last_only=only, **inputs) for only in (False, True))
    np.testing.assert_allclose(got.hidden_BTD[:, 0], want.hidden_BTD[rows, batch.lengths_B - 1], **CLOSE)
    np.testing.assert_allclose(got.logits_BTV[:, 0], want.logits_BTV[rows, batch.lengths_B - 1], **CLOSE)
    np.testing.assert_allclose(got.taps, want.taps, **CLOSE)
    for name in ("k", "v"):
        a, b = (np.asarray(getattr(out.cache, name)) for out in (got, want))
        np.testing.assert_allclose(a[:, 0], b[:, 0], **CLOSE)
        np.testing.assert_allclose(a[:, 1, :4], b[:, 1, :4], **CLOSE)
    if guard:
        np.testing.assert_array_equal(got.gate_LB, want.gate_LB)


def test_upto_gives_the_residual_stream_of_that_layer():
    batch, every = text_batch(), taps()
    for layer in range(L):
        out = run(PARAMS, batch, TEXT_ONLY, upto=layer)
        assert out.logits_BTV is None
        np.testing.assert_allclose(out.hidden_BTD, every[layer], **CLOSE)


def test_upto_does_not_read_later_layers():
    broken = jax.tree.map(lambda w: w.at[2:].set(jnp.nan), PARAMS["decoder"]["layers"])
    params = {"decoder": PARAMS["decoder"] | {"layers": broken}}
    assert np.isfinite(run(params, text_batch(), TEXT_ONLY, upto=1).hidden_BTD).all()


def test_the_last_tap_is_each_rows_last_real_token():
    batch = text_batch(T=7, lengths=[7, 4])
    last = run(PARAMS, batch, TEXT_ONLY, tap="last").taps
    assert last.dtype == jnp.float32 and last.shape == (L, 2, D)
    np.testing.assert_allclose(last, taps(batch=batch)[:, jnp.arange(2), batch.lengths_B - 1], **CLOSE)


def test_without_steering_the_program_holds_no_trace_of_it():
    def program(**options):
        return str(jax.make_jaxpr(lambda p, b: forward(p, b, TEXT_ONLY, **options).logits_BTV)(PARAMS, text_batch()))

    assert program(steer=None, tap=None, lora=None) == program()
    assert program(steer=steer(0.5)) != program()


def test_minus_one_projects_the_directions_out():
    one = steer(-1.0, rank=3)
    got, plain = taps(one), taps()
    np.testing.assert_array_equal(got[0], plain[0])  # layers that are off keep their bits
    np.testing.assert_allclose(got[1] @ one.basis_LMD[1].T, np.zeros((2, 7, 3)), atol=1e-5)
    V = np.asarray(one.basis_LMD[1])
    np.testing.assert_allclose(got[1], plain[1] - plain[1] @ V.T @ V, **CLOSE)
    assert np.abs(got[2] - plain[2]).max() > 1e-3  # later layers feel it


@pytest.mark.parametrize(("strength", "shift"), [(-2.0, 0.0), (0.7, 0.0), (0.0, 1.0), (-1.0, 0.5)])
def test_steering_follows_its_formula(strength, shift):
    one, plain = steer(strength, shift), taps()[1]
    V = np.asarray(one.basis_LMD[1])
    np.testing.assert_allclose(taps(one)[1], plain + strength * plain @ V.T @ V + np.asarray(one.shift[1]), **CLOSE)


def test_norms_are_kept_when_asked():
    got, plain = (np.linalg.norm(t[1], axis=-1) for t in (taps(steer(3.0, 1.0, norm_preserving=True)), taps()))
    np.testing.assert_allclose(got, plain, rtol=1e-5)


@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_scopes_that_write_the_whole_prompt(scope):
    assert (np.abs(taps(steer(0, 1.0, scope=scope))[1] - taps()[1]).max(-1) > 0.01).all()


def test_scope_last_writes_the_last_real_token_only():
    batch = text_batch(T=7, lengths=[7, 4])
    moved = np.abs(taps(steer(0, 1.0, scope="last"), batch)[1] - taps(batch=batch)[1]).max(-1) > 0
    assert np.argwhere(moved).tolist() == [[0, 6], [1, 3]]


def test_a_gate_opens_where_the_last_token_points_beyond_the_threshold():
    """Read before this layer is steered; every layer and row decides for itself."""
    batch = text_batch(T=7, lengths=[7, 4, 5, 6], B=4)
    last = np.asarray(run(PARAMS, batch, TEXT_ONLY, tap="last").taps)[1]
    one = steer(0, 1.0, gated=True)
    scores = last @ np.asarray(one.basis_LMD[1, 0])
    low, high = np.sort(scores)[1:3]
    out = run(PARAMS, batch, TEXT_ONLY, tap="all", steer=one.replace(threshold_L=jnp.full(L, (low + high) / 2)))
    np.testing.assert_array_equal(out.gate_LB[1], (scores > (low + high) / 2).astype(np.float32))
    plain = taps(batch=batch)
    for row, is_open in enumerate(scores > (low + high) / 2):
        assert (np.abs(out.taps[1, row] - plain[1, row]).max() > 0.01) == is_open


def test_a_closed_gate_leaves_every_bit():
    closed = steer(0.5, 1.0, gated=True, threshold=1e9)
    np.testing.assert_array_equal(taps(closed), taps())


def test_a_given_gate_is_obeyed_and_returned():
    gate = jnp.array([[1.0, 0.0]] * L)
    one = steer(0, 1.0, gated=True, threshold=1e9, gate=gate)
    out = run(PARAMS, text_batch(), TEXT_ONLY, tap="all", steer=one)
    np.testing.assert_array_equal(out.gate_LB, gate)
    np.testing.assert_array_equal(out.taps[:, 1], taps()[:, 1])
    assert np.abs(out.taps[1, 0] - taps()[1, 0]).max() > 0.01


def test_an_adapter_equals_the_merged_weights():
    from vlm_mu_jax.model import lora
    from vlm_mu_jax.model.vlm import param_specs

    pairs = lora.init_lora(param_specs(LLAVA), (".*",), 2, jax.random.key(0))
    pairs = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), pairs)
    adapters = lora.adapters(pairs, 0.5, jnp.float32)
    got = run(PARAMS, text_batch(), TEXT_ONLY, lora=adapters).logits_BTV
    want = run(lora.merge(PARAMS, adapters), text_batch(), TEXT_ONLY).logits_BTV
    assert np.abs(want - run(PARAMS, text_batch(), TEXT_ONLY).logits_BTV).max() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_dynamic_rope_of_a_row_ignores_its_neighbours():
    cfg = text_cfg(rope_scaling=RopeScaling("dynamic", 2.0, original_max_positions=4))
    batch = text_batch(T=9, lengths=[9, 3, 5], B=3)
    together = run(PARAMS, batch, cfg).logits_BTV
    for row, n in enumerate((9, 3, 5)):
        alone = run(PARAMS, Batch(batch.tokens_BT[row : row + 1], batch.lengths_B[row : row + 1]), cfg).logits_BTV
        np.testing.assert_allclose(together[row, :n], alone[0, :n], **CLOSE)
