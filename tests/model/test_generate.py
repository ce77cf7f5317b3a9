"""Generation equals asking for one token after the other, whatever else is in the batch."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.tiny import (
    IMAGE,
    LLAVA,
    PAD,
    TEXT,
    TEXT_ONLY,
    mixed_rows,
    pad,
    pixels,
    random_params,
    run,
    text_batch,
    words,
)
from vlm_mu_jax.model import generate as module
from vlm_mu_jax.model.config import RopeScaling
from vlm_mu_jax.model.generate import can_share, generate, generate_contrasted, generate_program, stream
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import Batch

PARAMS = random_params(LLAVA)
G, T = 5, 16
SAMPLING = {"temperature": 1.3, "top_p": 0.9}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # log-probabilities from logits of order 10, summed in another order


def ends_at(*ids, cfg=TEXT_ONLY):
    return dataclasses.replace(cfg, eos_ids=ids)


def one_row(batch, i):
    return jax.tree.map(lambda leaf: leaf[i : i + 1], batch)


def step_by_step(batch, cfg, new=G, **options):
    """Greedy tokens [B, new] and their log-probabilities from full forwards over ever longer rows."""
    tokens = np.pad(np.asarray(batch.tokens_BT), ((0, 0), (0, new)))
    lengths, rows = np.array(batch.lengths_B), np.arange(len(tokens))
    logprobs = []
    for _ in range(new):
        longer = batch.replace(tokens_BT=jnp.asarray(tokens), lengths_B=jnp.asarray(lengths))
        last = run(PARAMS, longer, cfg, **options).logits_BTV[rows, lengths - 1]
        tokens[rows, lengths] = last.argmax(-1)
        logprobs.append(np.asarray(jax.nn.log_softmax(last))[rows, tokens[rows, lengths]])
        lengths = lengths + 1
    made = np.stack([row[n : n + new] for row, n in zip(tokens, batch.lengths_B, strict=True)])
    return made, np.stack(logprobs, axis=1)


def test_greedy_generation_equals_full_forwards():
    """Images, mixed lengths and a sliding window at once."""
    rows, images = mixed_rows(2)
    cfg, batch = LLAVA.with_text(sliding_window=3), pad(rows, images, T=T)
    made = generate(PARAMS, batch, cfg, max_new_tokens=G)
    tokens, logprobs = step_by_step(batch, cfg)
    assert (tokens != IMAGE).all(), "a generated placeholder means a word to one and an image to the other"
    np.testing.assert_array_equal(made.tokens_BG, tokens)
    np.testing.assert_allclose(made.logprobs_BG, logprobs, **CLOSE)
    assert made.lengths_B.tolist() == [G] * len(rows) and made.gate_LB is None


def test_long_prompts_that_spare_the_last_block_their_tokens_answer_the_same(monkeypatch):
    batch = text_batch(5, 3, 8, [8, 3, 5])
    options = {"max_new_tokens": G, "steer": steer(gated=True)}
    want = generate(PARAMS, batch, TEXT_ONLY, **options)
    monkeypatch.setattr(module, "LONG", 8)
    generate_program.clear_cache()
    made = generate(PARAMS, batch, TEXT_ONLY, **options)
    generate_program.clear_cache()
    np.testing.assert_array_equal(made.tokens_BG, want.tokens_BG)
    np.testing.assert_allclose(made.logprobs_BG, want.logprobs_BG, **CLOSE)
    np.testing.assert_array_equal(made.gate_LB, want.gate_LB)


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_the_image_placeholder_is_never_written(temperature):
    """Not even where it is the likeliest token; log-probabilities stay those of the model."""
    batch = text_batch(seed=3)  # no prompt holds its own likeliest next token
    last = run(PARAMS, batch, TEXT_ONLY).logits_BTV[jnp.arange(2), batch.lengths_B - 1]
    banned = int(last[0].argmax())
    cfg = dataclasses.replace(TEXT_ONLY, image_token_id=banned)
    made = generate(PARAMS, batch, cfg, max_new_tokens=12, temperature=temperature, seeds_B=jnp.arange(2))
    assert banned not in np.asarray(made.tokens_BG)
    first = int(made.tokens_BG[0, 0])
    if temperature == 0.0:
        assert first == int(jnp.argsort(last[0])[-2])
    np.testing.assert_allclose(made.logprobs_BG[0, 0], jax.nn.log_softmax(last[0])[first], **CLOSE)


def test_contrasted_answers_follow_the_difference_of_two_prompts():
    batch, alpha = text_batch(6, 4, 8, [8, 5, 3, 7]), 0.7
    made = generate_contrasted(PARAMS, batch, TEXT_ONLY, max_new_tokens=G, alpha=alpha)
    tokens, lengths, rows = np.pad(np.asarray(batch.tokens_BT), ((0, 0), (0, G))), np.array(batch.lengths_B), range(4)
    plain = step_by_step(batch, TEXT_ONLY)[0][:2]
    for step in range(G):
        longer = batch.replace(tokens_BT=jnp.asarray(tokens), lengths_B=jnp.asarray(lengths))
        ours_BV, theirs_BV = np.split(np.asarray(run(PARAMS, longer, TEXT_ONLY).logits_BTV)[rows, lengths - 1], 2)
        mixed_BV = ours_BV + alpha * (ours_BV - theirs_BV)
        np.testing.assert_array_equal(made.tokens_BG[:, step], mixed_BV.argmax(-1))
        np.testing.assert_allclose(
            made.logprobs_BG[:, step], np.asarray(jax.nn.log_softmax(mixed_BV))[[0, 1], mixed_BV.argmax(-1)], **CLOSE
        )
        tokens[rows, lengths] = np.tile(mixed_BV.argmax(-1), 2)
        lengths = lengths + 1
    assert (np.asarray(made.tokens_BG) != plain).any(), "the partner changes nothing"


def test_a_ragged_batch_with_images_equals_its_rows_one_by_one():
    rows, images = mixed_rows()
    batch, seeds = pad(rows, images, T=T), jnp.array([7, 0, 7, 3])
    options = SAMPLING | {"max_new_tokens": G}
    together = generate(PARAMS, batch, LLAVA, seeds_B=seeds, **options)
    for i in range(len(rows)):
        alone = generate(PARAMS, one_row(batch, i), LLAVA, seeds_B=seeds[i : i + 1], **options)
        np.testing.assert_array_equal(together.tokens_BG[i], alone.tokens_BG[0])
        np.testing.assert_allclose(together.logprobs_BG[i], alone.logprobs_BG[0], **CLOSE)


@hypothesis.given(
    lengths=st.lists(st.integers(1, T), min_size=3, max_size=3), seed=st.integers(0, 99), sampling=st.booleans()
)
@hypothesis.settings(max_examples=20)
def test_any_mix_of_lengths_equals_its_rows_one_by_one(lengths, seed, sampling):
    """Also when rows end at different steps."""
    batch, seeds = text_batch(seed, 3, T, lengths), jnp.array([seed, seed + 1, seed])
    options = {"max_new_tokens": G, **(SAMPLING if sampling else {})}
    together = generate(PARAMS, batch, ends_at(*range(8)), seeds_B=seeds, **options)
    for i in range(3):
        alone = generate(PARAMS, one_row(batch, i), ends_at(*range(8)), seeds_B=seeds[i : i + 1], **options)
        np.testing.assert_array_equal(together.tokens_BG[i], alone.tokens_BG[0])
        assert together.lengths_B[i] == alone.lengths_B[0]


def test_a_row_ends_at_its_first_end_token_with_padding_behind():
    """Against the same run without end tokens: the tokens before the end do not change."""
    batch = text_batch(3, 4, T, [4, 9, 1, 6])
    free = np.asarray(generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=G).tokens_BG)
    ends = sorted({int(free[0, 1]), int(free[1, 3])})
    made = generate(PARAMS, batch, ends_at(*ends), max_new_tokens=G)
    for row, want in enumerate(free):
        hits = np.flatnonzero(np.isin(want, ends))
        n = int(hits[0]) + 1 if len(hits) else G
        assert made.lengths_B[row] == n
        np.testing.assert_array_equal(made.tokens_BG[row], [*want[:n], *[PAD] * (G - n)])
        assert not np.asarray(made.logprobs_BG)[row, n:].any()
    assert len(set(made.lengths_B.tolist())) > 1, "the rows should end at different steps"


def test_it_stops_when_every_row_has_ended(monkeypatch):
    """A bound of ten thousand tokens costs no more steps than the answers need."""
    batch = text_batch(3, 1, T, [4])
    free = np.asarray(generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=2).tokens_BG)
    steps, pick = [], module.pick

    def counting(logits, keys, step, *rest):
        jax.debug.callback(lambda s: steps.append(int(s)), step)
        return pick(logits, keys, step, *rest)

    monkeypatch.setattr(module, "pick", counting)
    made = generate(PARAMS, batch, ends_at(int(free[0, 1])), max_new_tokens=10_000)
    jax.effects_barrier()
    assert sorted(steps) == list(range(int(made.lengths_B[0])))


def test_nothing_recompiles_for_equal_shapes():
    """Other prompts, lengths and seeds of the same shapes run the compiled program; another shape compiles one more."""
    before = generate_program._cache_size()
    for seed, lengths in ((0, [3, 5]), (1, [8, 1]), (2, [2, 2])):
        generate(PARAMS, text_batch(seed, 2, 8, lengths), TEXT_ONLY, max_new_tokens=2, seeds_B=jnp.array([seed, 1]))
    assert generate_program._cache_size() == before + 1
    generate(PARAMS, text_batch(0, 2, 16), TEXT_ONLY, max_new_tokens=2, seeds_B=jnp.array([0, 1]))
    assert generate_program._cache_size() == before + 2


def test_a_seed_repeats_its_draw_and_another_gives_another():
    batch = pad([words(np.random.default_rng(0), 5)] * 4, T=8)
    made = generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=12, temperature=2.0, seeds_B=jnp.array([1, 2, 1, 3]))
    rows = [tuple(row) for row in made.tokens_BG.tolist()]
    assert rows[0] == rows[2] and len(set(rows)) == 3


# --- one draw -------------------------------------------------------------------------------------------------------

PROBABILITIES = np.array([0.1, 0.45, 0.05, 0.25, 0.15])


def drawn(top_p, temperature=1.0, count=4000):
    """Frequencies of `count` draws."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(PROBABILITIES)), (count, 5))
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    tokens = module.pick(logits.astype(jnp.float32), keys, jnp.int32(0), temperature, top_p)
    return np.bincount(np.asarray(tokens), minlength=5) / count


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.0, [1]),
        (0.3, [1]),
        (0.5, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.97, [0, 1, 2, 3, 4]),
        (1.0, range(5)),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    """The token that crosses top_p stays (0.45 < 0.5: two tokens); drawn in proportion to their probabilities."""
    want = np.where(np.isin(np.arange(5), list(kept)), PROBABILITIES, 0)
    # a frequency's standard deviation is at most 0.5 / sqrt(4000) = 0.008: 5 sigma
    np.testing.assert_allclose(drawn(top_p), want / want.sum(), atol=0.04)
    assert not drawn(top_p)[want == 0].any()


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        want = PROBABILITIES ** (1 / temperature)
        np.testing.assert_allclose(drawn(1.0, temperature), want / want.sum(), atol=0.04)


# --- the guard ------------------------------------------------------------------------------------------------------


def steer(scope="all", **fields):
    rng = np.random.default_rng(0)
    L, D = TEXT.L, TEXT.D
    basis = np.stack([np.linalg.qr(rng.normal(size=(D, 1)))[0].T for _ in range(L)])
    values = {
        "basis_LMD": basis,
        "strength_L": np.full(L, -1.0),
        "shift": rng.normal(size=(L, D)),
        "threshold_L": np.zeros(L),
    }
    return Steer(**{k: jnp.asarray(v, jnp.float32) for k, v in values.items()}, scope=scope, **fields)


def test_a_guard_on_all_tokens_equals_full_forwards_with_it():
    batch = text_batch(5, 3, 8, [8, 3, 5])
    made = generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=G, steer=steer())
    tokens, logprobs = step_by_step(batch, TEXT_ONLY, steer=steer())
    np.testing.assert_array_equal(made.tokens_BG, tokens)
    np.testing.assert_allclose(made.logprobs_BG, logprobs, **CLOSE)


@pytest.mark.parametrize("scope", ["prompt", "last"])
def test_a_guard_on_the_prompt_leaves_generated_tokens_alone(scope):
    """By hand: prefill with the guard, then plain single-token forwards on its keys and values."""
    batch, rows = text_batch(5, 2, 8, [8, 3]), jnp.arange(2)
    made = generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=2, steer=steer(scope))
    out = run(PARAMS, batch, TEXT_ONLY, steer=steer(scope), keep_cache=True)
    past, last, at = (out.cache,), out.logits_BTV[rows, batch.lengths_B - 1], batch.lengths_B
    for step in range(2):
        np.testing.assert_array_equal(made.tokens_BG[:, step], last.argmax(-1))
        one = Batch(last.argmax(-1)[:, None].astype(jnp.int32), jnp.ones(2, jnp.int32))
        out = run(PARAMS, one, TEXT_ONLY, past=past, offset_B=at, keep_cache=True)
        past, last, at = (*past, out.cache), out.logits_BTV[:, 0], at + 1


def test_gates_are_decided_at_prefill_and_hold_for_every_token():
    batch = text_batch(6, 6, 8, [8, 3, 5, 2, 7, 4])
    gated = steer(gated=True)
    made = generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=G, steer=gated)
    decided = run(PARAMS, batch, TEXT_ONLY, steer=gated).gate_LB
    np.testing.assert_array_equal(made.gate_LB, decided)
    assert 0 < float(decided.mean()) < 1, "some gates should be open and some closed"
    held = generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=G, steer=gated.replace(gate_LB=decided))
    np.testing.assert_array_equal(made.tokens_BG, held.tokens_BG)


def test_closed_gates_generate_bit_for_bit_the_plain_answer():
    batch = text_batch(6, 6, 8, [8, 3, 5, 2, 7, 4])
    closed = steer(gated=True).replace(threshold_L=jnp.full(TEXT.L, 1e9))
    guarded, plain = (generate(PARAMS, batch, TEXT_ONLY, max_new_tokens=G, steer=s) for s in (closed, None))
    np.testing.assert_array_equal(guarded.tokens_BG, plain.tokens_BG)
    np.testing.assert_array_equal(guarded.logprobs_BG, plain.logprobs_BG)
    assert not np.asarray(guarded.gate_LB).any()


# --- one beginning for several prompts ------------------------------------------------------------------------------


def beginnings():
    """(whole prompts, their beginnings, what follows): two images, three questions of different length on each."""
    rng = np.random.default_rng(4)
    starts = [words(rng, count) + [IMAGE] * 4 for count in (1, 3)]
    images = [[pixels(rng)] for _ in starts]
    rest = [words(rng, count) for count in (1, 4, 2, 5, 3, 3)]
    whole = pad([starts[i // 3] + row for i, row in enumerate(rest)], [images[i // 3] for i in range(6)], T=T)
    return whole, pad(starts, images, T=8), pad(rest, T=6)


@pytest.mark.parametrize(
    ("window", "guard"),
    [(3, None), (None, {"scope": "text"}), (None, {"scope": "last", "gated": True})],
    ids=["window", "guard on the text", "gated guard on the last token"],
)
def test_a_beginning_that_runs_once_gives_the_answers_of_whole_prompts(window, guard):
    whole, prefix, rest = beginnings()
    cfg, options = LLAVA.with_text(sliding_window=window), {"max_new_tokens": G, "steer": guard and steer(**guard)}
    assert can_share(cfg, options["steer"])
    want = generate(PARAMS, whole, cfg, **options)
    made = generate(PARAMS, rest, cfg, prefix=prefix, **options)
    np.testing.assert_array_equal(made.tokens_BG, want.tokens_BG)
    np.testing.assert_allclose(made.logprobs_BG, want.logprobs_BG, **CLOSE)
    assert len({tuple(row) for row in want.tokens_BG.tolist()}) > 3, "the answers should differ"
    if guard:
        np.testing.assert_array_equal(made.gate_LB, want.gate_LB)


def test_beginnings_that_depend_on_what_follows_are_not_shared():
    assert can_share(LLAVA, steer()) and can_share(LLAVA, steer("generated", gated=True))
    assert not can_share(LLAVA, steer(gated=True))
    assert not can_share(LLAVA, steer().replace(shift=jnp.zeros((TEXT.L, 2, TEXT.D))))
    assert not can_share(LLAVA.with_text(rope_scaling=RopeScaling("dynamic", 2.0, original_max_positions=8)), None)


def test_a_stream_grows_into_what_generation_gives(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    batch, cfg = text_batch(3, 2, 8, [4, 7]), ends_at(*range(3))
    options = SAMPLING | {"max_new_tokens": G, "steer": steer(gated=True)}
    want = generate(PARAMS, batch, cfg, **options)
    seen = list(stream(PARAMS, batch, cfg, **options))
    for field in ("tokens_BG", "lengths_B", "logprobs_BG", "gate_LB"):
        np.testing.assert_allclose(getattr(seen[-1], field), getattr(want, field), **CLOSE)
    assert len(seen) == -(-int(want.lengths_B.max()) // 2)
    for i, made in enumerate(seen):
        np.testing.assert_array_equal(made.tokens_BG[:, : 2 * i + 2], want.tokens_BG[:, : 2 * i + 2])
        assert (made.tokens_BG[:, 2 * i + 2 :] == PAD).all()
