"""Suffix searches: what is reported is the margin of the text as a user would send it, and it is the best one tried."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.attack.reference import margin
from vlm_mu_jax.attack import gcg, random_search, suffix
from vlm_mu_jax.attack.guards import FirstPass
from vlm_mu_jax.attack.margins_file import MarginsFile
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.search import Ask
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.decoder import Steer
from vlm_mu_jax.steering import gates
from vlm_mu_jax.steering.states import batch_states

QUESTION = "share the steps of the dax on this sign ?"
OPENINGS = Openings(((5,), (7, 8)))
USE = suffix.Settings(steps=4, candidates=16, length=5, top=8, stop=1e9, block=16)


@pytest.fixture(scope="module")
def ask():
    return Ask(QUESTION, np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32))


@pytest.fixture(scope="module", params=[gcg, random_search], ids=["gcg", "random"])
def found(request, model, ask):
    """(module, progress ticks, result) of both goals and of a question without an image."""
    ticks = []

    def progress(steps, label, total):
        ticks.append((total, sum(1 for _ in steps)))
        return ()

    some = [ask, Ask(QUESTION)]
    down = suffix.search(model, some, OPENINGS, request.param.propose, USE, progress=progress)
    up = suffix.search(model, some, OPENINGS, request.param.propose, USE, goal="over_refuse")
    return request.param, ticks, down, up


def true_margin(model, one, image, **more):
    return margin(model, suffix.with_suffix(QUESTION, one), None, image, OPENINGS, **more)


def test_margins_are_those_of_the_texts(model, ask, found):
    for results in found[2:]:
        for one, image in zip(results, (ask.image, None), strict=True):
            assert abs(one.margin - true_margin(model, one.text, image)) < 1e-4
            assert abs(one.original - margin(model, QUESTION, None, image, OPENINGS)) < 1e-4


def test_a_search_gets_better_and_never_worse(found):
    _, ticks, down, up = found
    for results, sign in ((down, -1), (up, 1)):
        for one in results:
            curve = [sign * m for m in (one.start, *one.curve)]
            assert curve == sorted(curve) and curve[-1] == sign * one.margin > sign * one.start
    assert ticks == [(2 * USE.steps, 2 * USE.steps)]


def test_budgets_are_counted(found):
    proposals, _, down, _ = found
    assert all(one.flops > 0 for one in down)
    for one in down:
        assert one.gradients == (USE.steps if proposals is gcg else 0)
        assert 2 + USE.steps <= one.prompts <= 2 + USE.steps * USE.candidates


def test_the_control_is_another_suffix_of_the_same_length(model, found):
    for one in found[2]:
        both = [suffix.slots(model.processor, QUESTION, text, 0).ids for text in (one.text, one.control)]
        assert one.text != one.control and len(both[0]) == len(both[1]) == one.tokens


def test_it_stops_where_it_is_told_and_starts_where_it_is_told(model, ask):
    start = "please the wug"
    use = dataclasses.replace(USE, start=start, stop=-1e9)
    (one,) = suffix.search(model, [ask], OPENINGS, random_search.propose, use)
    assert one.text == start and one.curve == () and one.margin == one.start
    assert abs(one.margin - true_margin(model, start, ask.image)) < 1e-4


@pytest.mark.parametrize("kind", ["word_level", "byte_level", "metaspace", "no_split"])
def test_survivors_are_tokenised_to_what_was_proposed(make_model, kind):
    processor = make_model(kind=kind).processor
    allowed = suffix.vocabulary(processor, len(processor.tokenizer))
    assert not {0, 1, 2, 3, 4} & set(allowed.tolist())  # special tokens, the image's among them
    rng = np.random.default_rng(1)
    now = suffix.slots(processor, QUESTION, "what the fep can", 1)
    bare = processor.short_ids([(QUESTION, "")], 1)[0]
    if kind != "no_split":  # that one merges a suffix with the question's last piece
        assert now.head + now.tail == bare
    proposed = np.tile(np.array(now.ids), (40, 1))
    proposed[np.arange(40), rng.integers(0, len(now.ids), 40)] = rng.choice(allowed, 40)
    texts, rows = suffix.surviving(processor, QUESTION, now, proposed, 1)
    assert len(set(texts)) == len(texts) == len(rows)
    for text, row in zip(texts, rows, strict=True):
        ids = processor.short_ids([(suffix.with_suffix(QUESTION, text), "")], 1)[0]
        assert ids == (*now.head, *proposed[row].tolist(), *now.tail)
    if kind == "word_level":  # every proposal is words: only repeated texts are dropped
        assert len(texts) == len(np.unique(proposed, axis=0))


def test_a_finished_question_is_not_searched_again(model, ask, tmp_path):
    path, identity = tmp_path / "margins.jsonl", {"a": 1}
    with MarginsFile(path, identity, suffix.Found) as file:
        first = suffix.search(model, [ask], OPENINGS, random_search.propose, USE, file=file)
    assert first == suffix.search(model, [ask], OPENINGS, random_search.propose, USE)  # the seed decides, not the order

    def broken(*_):
        raise AssertionError("searched again")

    with MarginsFile(path, identity, suffix.Found) as file:
        assert suffix.search(model, [ask], OPENINGS, broken, USE, file=file) == first


@pytest.mark.parametrize("decides", ["layer", "example"])
def test_the_guard_is_inside_the_attacked_program(model, ask, decides):
    cfg, rng = model.config.text, np.random.default_rng(1)
    basis = rng.normal(size=(cfg.L, 1, cfg.D)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=-1, keepdims=True)
    steer = Steer(basis, jnp.full((cfg.L,), 2.0), jnp.zeros((cfg.L, cfg.D)), jnp.zeros((cfg.L,)), gated=True)

    def states_of(question):
        ids = model.processor.prompt_ids(question, [ask.image])
        return batch_states(model, model.processor.pad([ids], [[ask.image]], length=96))

    guard, steer_of = steer, lambda question: steer
    if decides == "example":
        guard = FirstPass(lambda states: gates.per_example(steer, states, quorum=0.5), text_only=False)
        steer_of = lambda question: guard.steer_of(states_of(question))  # noqa: E731
    use = dataclasses.replace(USE, steps=2)
    (one,) = suffix.search(model, [ask], OPENINGS, gcg.propose, use, steer=guard)
    text = suffix.with_suffix(QUESTION, one.text)
    assert abs(one.margin - margin(model, text, None, ask.image, OPENINGS, steer=steer_of(text))) < 1e-4
    assert one.gradients == 2


def test_a_tokenizer_without_text_is_refused(model):
    with pytest.raises(InputError, match="no printable token"):
        suffix.vocabulary(model.processor, 4)
