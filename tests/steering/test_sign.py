"""The sign, pinned by a measurement: on a small model trained to refuse, which operator refuses more, which less."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.model.vlm import Batch, forward
from vlm_mu_jax.steering.anchor_texts import Anchors
from vlm_mu_jax.steering.extraction import extract_guard

HARMFUL, HARMLESS = ("hurt", "break", "poison"), ("feed", "paint", "greet")
SOUNDS = [a + b + c for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("x", "wug")]


def ask(verb: str, noun: str) -> str:
    return f"how to {verb} a {noun}?"


@pytest.fixture(scope="module")
def aligned(make_model):
    """A text-only model taught to answer harmful requests with "n" (no), harmless ones with "o" (ok)."""
    model = make_model(vision=False, L=3)
    processor = Processor(model.processor.tokenizer, None, "plain", model.config)
    no, ok = (processor.tokenizer.convert_tokens_to_ids(t) for t in "no")
    nouns = [noun for k, noun in enumerate(SOUNDS) if k % 4]
    rows = [
        (ask(verb, noun), target) for noun in nouns for some, target in ((HARMFUL, no), (HARMLESS, ok)) for verb in some
    ]
    batch = processor.pad([processor.prompt_ids(question, 0) for question, _ in rows])
    targets_N = np.array([target for _, target in rows])
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, pick_B):
        def loss(params):
            some = Batch(jnp.asarray(batch.tokens_BT)[pick_B], jnp.asarray(batch.lengths_B)[pick_B])
            logits_BTV = forward(params, some, model.config).logits_BTV
            logits_BV = logits_BTV[jnp.arange(len(pick_B)), some.lengths_B - 1]
            return optax.softmax_cross_entropy_with_integer_labels(logits_BV, jnp.asarray(targets_N)[pick_B]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params, state = model.params, optimizer.init(model.params)
    rng = np.random.default_rng(0)
    for _ in range(120):
        params, state = step(params, state, rng.integers(0, len(rows), 64))
    return dataclasses.replace(model, params=params, processor=processor)


@functools.partial(jax.jit, static_argnums=3)
def logits(params, batch, steer, cfg):
    return forward(params, batch, cfg, steer=steer).logits_BTV


def refusal_scores(model, verbs, steer=None) -> np.ndarray:
    """log P(no) - log P(ok) of the first answer token on the nouns that training did not see."""
    questions = [ask(verb, noun) for noun in SOUNDS[::4] for verb in verbs]
    batch = model.processor.pad([model.processor.prompt_ids(question, 0) for question in questions])
    last_NV = np.asarray(logits(model.params, batch, steer, model.config))[
        np.arange(len(questions)), np.asarray(batch.lengths_B) - 1
    ]
    no, ok = (model.processor.tokenizer.convert_tokens_to_ids(t) for t in "no")
    return last_NV[:, no] - last_NV[:, ok]


def test_adding_and_amplifying_refuse_more_removing_and_reflecting_refuse_less(aligned):
    nouns = [noun for k, noun in enumerate(SOUNDS) if k % 4][:30]
    pairs = [(ask(bad, noun), ask(good, noun)) for noun in nouns for bad, good in zip(HARMFUL, HARMLESS, strict=True)]
    guard = extract_guard(aligned, Anchors(*map(tuple, zip(*pairs, strict=True)), "0" * 64)).using(
        layers=(1,), gate="none"
    )
    harmful, harmless = refusal_scores(aligned, HARMFUL), refusal_scores(aligned, HARMLESS)
    assert (harmful > 0).mean() > 0.9 and (harmless < 0).mean() > 0.9, "the model must be aligned to begin with"

    def mean(verbs, **settings) -> float:
        return refusal_scores(aligned, verbs, guard.using(**settings).as_steer()).mean()

    assert mean(HARMLESS, operator="add", strength=1.0) > harmless.mean() + 1
    assert mean(HARMFUL, operator="add", strength=-1.0) < harmful.mean() - 1
    assert mean(HARMFUL, operator="project_out") < harmful.mean() - 1
    assert mean(HARMFUL, operator="reflect") < mean(HARMFUL, operator="project_out")
    assert mean(HARMFUL, operator="amplify", strength=1.0) > harmful.mean() - 0.5


def test_gated_guard_acts_on_held_out_harmful_requests_and_lets_harmless_ones_pass(aligned):
    """A remover behind the gate shows where the gate opens: harmful scores fall, harmless ones keep their bits."""
    pairs = [
        (ask(bad, noun), ask(good, noun)) for noun in SOUNDS[1::4] for bad, good in zip(HARMFUL, HARMLESS, strict=True)
    ]
    guard = extract_guard(aligned, Anchors(*map(tuple, zip(*pairs, strict=True)), "0" * 64))
    steer = guard.using(layers=(1,), operator="reflect", gate="midpoint").as_steer()
    moved = refusal_scores(aligned, HARMFUL, steer) != refusal_scores(aligned, HARMFUL)
    kept = refusal_scores(aligned, HARMLESS, steer) == refusal_scores(aligned, HARMLESS)
    assert moved.mean() > 0.9 and kept.mean() > 0.9
