"""The search equals a full forward per candidate, keeps what numpy keeps, and treats ties and long words right."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.attack import one_word
from vlm_mu_jax.attack.flops import decoder_flops, vision_flops
from vlm_mu_jax.attack.one_word import Best, Target
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.words import open_with
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.decoder import Steer
from vlm_mu_jax.model.llava import Batch, forward

QUESTIONS = (
    "Share the steps of the dax.",
    "share the wug on this sign ?",
    "Please explain the zorp on this sign now ?",
)
WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share")  # one of them is many tokens
SHALLOW = Openings(((5,), (9,)))
LONGEST = 96  # tokens of any prompt here: one shape, so that the reference compiles few programs
full_forward = jax.jit(forward, static_argnames="cfg")
TWO_DEEP = Openings(((5,), (7, 8)))
DEEP = Openings(((5,), (7, 8), (7, 9, 10), (11, 12)))


def target(model, images=(1, 1, 0)):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    return Target(QUESTIONS, images, one_word.image_features(model.params, list(pixels), model.config, block=2)), pixels


def brute_force(model, question, image, openings, steer=None):
    """The margin by the definition: every opening's probability, one full forward of batch 1 per prefix."""
    ids = model.processor.prompt_ids(question, n_images=int(image is not None))
    pixels = None if image is None else image[None, None]
    gate = None

    def logp(prefix):
        nonlocal gate
        row = [*ids, *prefix]
        use = steer if steer is None or gate is None else steer.replace(gate_LB=gate)
        batch = Batch(np.array([row + [0] * (LONGEST - len(row))], np.int32), np.array([len(row)], np.int32), pixels)
        out = full_forward(model.params, batch, model.config, steer=use)
        gate = out.gate_LB if steer is not None and gate is None else gate
        return np.asarray(jax.nn.log_softmax(out.logits_BTV[0, len(row) - 1]), np.float64)

    logp(())
    p = sum(np.exp(sum(logp(o[:i])[t] for i, t in enumerate(o))) for o in openings.refusal)
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize(
    ("openings", "mode"), [(SHALLOW, "insert"), (DEEP, "swap")], ids=["one_token", "several_tokens"]
)
def test_search_equals_a_full_forward_per_candidate(model, openings, mode):
    asked, pixels = target(model)
    truth_QW = np.array([
        [brute_force(model, open_with(q, w, mode), pixels[i] if asked.images[i] else None, openings) for w in WORDS]
        for i, q in enumerate(QUESTIONS)
    ])  # fmt: skip
    for goal, sign in one_word.GOALS.items():
        found = one_word.search(
            model.params, model.config, model.processor, asked, WORDS, openings, goal=goal, mode=mode, top=3, block=4
        )
        np.testing.assert_allclose(found.margins_W, truth_QW.mean(0), atol=1e-4)
        assert found.best.tolist() == np.argsort(-sign * truth_QW.mean(0))[:3].tolist()
        assert found.best_per_question.tolist() == np.argsort(-sign * truth_QW, axis=1)[:, :3].tolist()
    original = [
        brute_force(model, q, pixels[i] if asked.images[i] else None, openings) for i, q in enumerate(QUESTIONS)
    ]
    np.testing.assert_allclose(found.original_Q, original, atol=1e-4)


def test_the_guard_is_inside_the_attacked_program(model):
    """Steering acts on every candidate, and a gate is read at the end of the prompt, not of the opening."""
    cfg = model.config.text
    basis = np.random.default_rng(1).normal(size=(cfg.L, 1, cfg.D)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=-1, keepdims=True)
    steer = Steer(
        jnp.asarray(basis), jnp.full((cfg.L,), 2.0), jnp.zeros((cfg.L, cfg.D)), jnp.zeros((cfg.L,)), gated=True
    )
    asked, pixels = target(model)
    found = one_word.search(
        model.params, model.config, model.processor, asked, WORDS[:4], TWO_DEEP, steer=steer, block=4
    )
    truth = [
        [brute_force(model, open_with(q, w), image, TWO_DEEP, steer) for w in WORDS[:4]]
        for q, image in zip(QUESTIONS, [*pixels[:2], None], strict=True)
    ]  # fmt: skip
    plain = [brute_force(model, QUESTIONS[0], pixels[0], TWO_DEEP, guard) for guard in (None, steer)]
    np.testing.assert_allclose(found.margins_W, np.mean(truth, axis=0), atol=1e-4)
    assert abs(plain[0] - plain[1]) > 1e-3  # the guard does act


def test_different_images_with_the_same_text_give_different_margins(model):
    asked, _ = target(model)
    same = dataclasses.replace(asked, questions=(QUESTIONS[0],) * 2, images=(1, 1), features_QPD=asked.features_QPD[:2])
    found = one_word.search(model.params, model.config, model.processor, same, WORDS, SHALLOW, block=8)
    assert abs(found.original_Q[0] - found.original_Q[1]) > 1e-3


def test_block_size_changes_nothing(model):
    asked, _ = target(model)
    runs = [
        one_word.search(model.params, model.config, model.processor, asked, WORDS, SHALLOW, top=8, block=b)
        for b in (8, 5)
    ]
    for run in runs[1:]:
        np.testing.assert_allclose(run.margins_W, runs[0].margins_W, atol=1e-5)
        assert run.best.tolist() == runs[0].best.tolist()
        assert run.flops == runs[0].flops


def test_a_second_search_of_the_same_shape_compiles_nothing(model):
    asked, _ = target(model)
    one_word.search(model.params, model.config, model.processor, asked, WORDS, SHALLOW, block=8)
    before = one_word._score._cache_size()
    one_word.search(
        model.params, model.config, model.processor, asked, WORDS[::-1], SHALLOW, block=8, goal="over_refuse"
    )
    assert one_word._score._cache_size() == before


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.sampled_from([1, 4]), block=st.sampled_from([2, 5]), n=st.integers(1, 25))
def test_running_best_equals_a_stable_sort(data, k, block, n):
    """Few distinct values, so that ties are the rule: the earlier candidate wins, whatever the blocks."""
    scores = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n)), np.float32)
    best, best_Q = one_word._empty((), k), one_word._empty((1,), k)
    slots = np.pad(np.arange(n, dtype=np.int32), (0, -n % block), constant_values=-1).reshape(-1, block)
    for slot_C in slots:
        margins_QC = jnp.asarray(np.where(slot_C >= 0, scores[slot_C], 99.0))[None]  # filling must never win
        best, best_Q, _ = one_word._keep(best, best_Q, margins_QC, slot_C, 1.0)
    want = np.argsort(-scores, kind="stable")[:k].tolist()
    assert best.index[: len(want)].tolist() == want
    assert best_Q.index[0, : len(want)].tolist() == want
    assert best.index[len(want) :].tolist() == [-1] * (k - len(want))


def test_merge_keeps_rows_apart():
    best = Best(jnp.array([[1.0, 0.0], [5.0, 4.0]]), jnp.array([[0, 1], [2, 3]]))
    merged = one_word._merge(best, jnp.array([[2.0], [3.0]]), jnp.array([[7], [8]]))
    assert merged.index.tolist() == [[7, 0], [2, 3]]


def test_more_best_words_than_candidates_are_all_candidates(model):
    asked, _ = target(model)
    found = one_word.search(model.params, model.config, model.processor, asked, WORDS[:2], SHALLOW, top=5, block=4)
    assert sorted(found.best.tolist()) == [0, 1] and found.best_per_question.shape == (3, 2)


def test_margin_keeps_its_precision_near_certainty(model):
    """Probabilities 1 - 1e-12 and 1e-12 still have different margins; a naive 1 - p would be 0."""
    big = jax.tree.map(lambda leaf: leaf, model.params)
    head = big["decoder"]["head_DV"]
    big = {**big, "decoder": {**big["decoder"], "head_DV": head * 40}}
    asked, _ = target(model)
    found = one_word.search(big, model.config, model.processor, asked, WORDS, SHALLOW, block=8)
    assert np.isfinite(found.margins_W).all() and np.abs(found.original_Q).max() > 20


def test_bad_searches_are_named(model):
    asked, _ = target(model)
    with pytest.raises(InputError, match="0 candidate words"):
        one_word.search(model.params, model.config, model.processor, asked, [], SHALLOW)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params)
    with pytest.raises(JobError, match="not a finite number"):
        one_word.search(broken, model.config, model.processor, asked, WORDS, SHALLOW)


def test_text_only_model(make_model):
    model = make_model(vision=False)
    asked = Target(QUESTIONS[:2], (0, 0), None)
    found = one_word.search(model.params, model.config, model.processor, asked, WORDS[:3], SHALLOW, block=2)
    truth = [[brute_force(model, open_with(q, w), None, SHALLOW) for w in WORDS[:3]] for q in QUESTIONS[:2]]
    np.testing.assert_allclose(found.margins_W, np.mean(truth, axis=0), atol=1e-4)


def test_flops_agree_with_the_compiler_on_a_plain_forward(model):
    """XLA counts every operation, ours the matrix products: equal within a third, never above by more than that."""
    cfg = model.config
    tokens = np.full((1, 64), 5, np.int32)
    run = jax.jit(lambda p, b: forward(p, b, dataclasses.replace(cfg, vision=None), logits=False).hidden_BTD)
    compiled = run.lower(model.params, Batch(tokens, np.array([64], np.int32))).compile().cost_analysis()["flops"]
    # XLA counts a scanned block once and full (not causal) attention.
    text = dataclasses.replace(cfg.text, L=1)
    ours = decoder_flops(text, np.array([64])) - 2 * text.D * text.V + 4 * text.N * text.H * 64 * 63 / 2
    assert ours <= compiled < 1.35 * ours
    assert vision_flops(cfg) > 0 and vision_flops(dataclasses.replace(cfg, vision=None)) == 0


def test_tree_of_openings_lists_parents_first():
    nodes = DEEP.nodes
    assert [n.prefix for n in nodes] == [(), (7,), (11,), (7, 9)]
    assert nodes[0].refusal == (5,) and nodes[0].deeper == (7, 11)
    for node, other in itertools.combinations(range(len(nodes)), 2):
        assert nodes[node].parent < node and len(nodes[node].prefix) <= len(nodes[other].prefix)
