"""Suffix searches: what is reported is the margin of the text as a user would send it, and it is the best one tried."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.attacks.reference import margin
from vlm_mu_jax.attacks.margin.guards import FirstPass
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import MarginsFile, SearchRun, SearchTarget
from vlm_mu_jax.attacks.methods import gcg, suffix, suffix_prompts
from vlm_mu_jax.attacks.methods.suffix_prompts import SuffixOptions, random_stretches
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering import gates
from vlm_mu_jax.steering.hidden_states import batch_states

QUESTION = "share the steps of the dax on this sign ?"
OPENINGS = Openings(((5,), (7, 8)))
USE = SuffixOptions(steps=4, candidates=16, length=5, top=8, stop=1e9, block=16)


@pytest.fixture(scope="module")
def ask():
    return SearchQuestion(QUESTION, np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32))


@pytest.fixture(scope="module", params=[gcg.propose, random_stretches], ids=["gcg", "random"])
def found(request, model, ask):
    """(how suffixes are proposed, progress ticks, result) of both goals and of a question without an image."""
    ticks = []

    def progress(steps, label, total):
        ticks.append((total, sum(1 for _ in steps)))
        return ()

    some = [ask, SearchQuestion(QUESTION)]
    down = suffix.search(model, some, SearchTarget(OPENINGS), request.param, USE, SearchRun(progress=progress))
    up = suffix.search(model, some, SearchTarget(OPENINGS, goal="over_refuse"), request.param, USE)
    return request.param, ticks, down, up


def true_margin(model, one, image, **more):
    return margin(model, suffix_prompts.with_suffix(QUESTION, one), None, image, OPENINGS, **more)


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


def test_wanted_openings_become_likely(model, ask):
    """The goal turns around: the answer is to begin so, where it was not to begin as a refusal."""
    wanted, use = dataclasses.replace(OPENINGS, wanted=True), dataclasses.replace(USE, steps=2)
    (one,) = suffix.search(model, [ask], SearchTarget(wanted), random_stretches, use)
    assert one.margin > one.start and abs(one.margin - true_margin(model, one.text, ask.image)) < 1e-4
    assert wanted.sign("jailbreak") == OPENINGS.sign("over_refuse") == 1 and wanted.sign("over_refuse") == -1


def test_budgets_are_counted(found):
    proposals, _, down, _ = found
    assert all(one.flops > 0 for one in down)
    for one in down:
        assert one.gradients == (USE.steps if proposals is gcg.propose else 0)
        assert 2 + USE.steps <= one.prompts <= 2 + USE.steps * USE.candidates


def test_the_control_is_another_suffix_of_the_same_length(model, found):
    for one in found[2]:
        both = [suffix_prompts.slots(model.processor, QUESTION, text, 0).ids for text in (one.text, one.control)]
        assert one.text != one.control and len(both[0]) == len(both[1]) == len(one.ids)


def test_it_stops_where_it_is_told_and_starts_where_it_is_told(model, ask):
    start = "please the wug"
    use = dataclasses.replace(USE, start=start, stop=-1e9)
    (one,) = suffix.search(model, [ask], SearchTarget(OPENINGS), random_stretches, use)
    assert one.text == start and one.curve == () and one.margin == one.start
    assert abs(one.margin - true_margin(model, start, ask.image)) < 1e-4


class Killed(Exception):
    pass


def killed_at(step):
    """`random_stretches`, until a step; and how often it was asked."""
    asked = []

    def propose(*arguments):
        if len(asked) == step:
            raise Killed
        asked.append(arguments)
        return random_stretches(*arguments)

    return propose, asked


def test_a_killed_search_continues_with_the_step_it_was_at(model, ask, tmp_path):
    path, identity = tmp_path / "margins.jsonl", {"a": 1}
    (whole,) = suffix.search(model, [ask], SearchTarget(OPENINGS), random_stretches, USE)
    with MarginsFile(path, identity, suffix.FoundSuffix) as file, pytest.raises(Killed):
        suffix.search(model, [ask], SearchTarget(OPENINGS), killed_at(2)[0], USE, SearchRun(file=file))
    propose, asked = killed_at(99)
    ticks = []
    with MarginsFile(path, identity, suffix.FoundSuffix) as file:
        (rest,) = suffix.search(
            model,
            [ask],
            SearchTarget(OPENINGS),
            propose,
            USE,
            SearchRun(
                file=file, progress=lambda steps, label, total: ticks.append((total, sum(1 for _ in steps))) or ()
            ),
        )
    assert len(asked) == USE.steps - 2 and ticks == [(USE.steps, USE.steps)]
    assert rest.flops > whole.flops and dataclasses.replace(rest, flops=whole.flops) == whole  # the prefix ran again
    with MarginsFile(path, identity, suffix.FoundSuffix) as file:  # a finished question is not searched again
        assert suffix.search(model, [ask], SearchTarget(OPENINGS), killed_at(0)[0], USE, SearchRun(file=file)) == [rest]


def margin_behind(model, one, text):
    return margin(model, suffix_prompts.with_suffix(one.question, text), None, one.image, OPENINGS)


@pytest.fixture(scope="module")
def together(model, ask, tmp_path_factory):
    """(questions, settings, what was found after every step); the first question is all but broken at the start."""
    asks = [ask, SearchQuestion("what is on this sign ?"), SearchQuestion("please explain the wug", ask.image)]
    use = dataclasses.replace(USE, steps=6, start="please the wug")
    use = dataclasses.replace(use, stop=0.05 - margin_behind(model, ask, use.start))
    path = tmp_path_factory.mktemp("universal") / "margins.jsonl"
    with MarginsFile(path, {}, suffix.FoundSuffix) as file:
        (found,) = suffix.universal(model, asks, SearchTarget(OPENINGS), random_stretches, use, SearchRun(file=file))
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    steps = [suffix.FoundSuffix.from_dict({name: row[name] for name in row if name != "key"}) for row in rows]
    assert steps[-1] == found and found.finished
    return asks, use, steps


def test_a_universal_suffix_has_the_margins_of_its_text_in_every_question(model, together):
    asks, _, (*_, found) = together
    assert len(found.margins) == len(found.originals) > 1
    for one, got, original in zip(asks, found.margins, found.originals, strict=False):
        assert abs(got - margin_behind(model, one, found.text)) < 1e-4
        assert abs(original - margin(model, one.question, None, one.image, OPENINGS)) < 1e-4


def test_a_question_joins_when_all_before_it_are_broken(together):
    _, use, (*steps, found) = together
    assert len(steps) == len(found.joined) == len(found.curve) and found.joined[0] == 1

    def gain(one):
        return np.minimum(-np.array(one.margins), use.stop).mean()

    for before, after in zip(steps, steps[1:], strict=False):
        broken = all(-margin >= use.stop for margin in before.margins)
        assert (len(after.margins) > len(before.margins)) == broken
        assert broken or gain(after) >= gain(before)


def test_every_shot_is_a_search_from_another_start(model, together):
    asks, use, _ = together
    use = dataclasses.replace(use, steps=1, start="")
    both = suffix.universal(model, asks, SearchTarget(OPENINGS), gcg.propose, use, shots=2)
    assert len({one.text for one in both}) == 2 and all(one.finished and one.gradients >= 1 for one in both)


@pytest.fixture(scope="module")
def behind(ask):
    """The question with an image of its own, behind a turn about another image."""
    first = (Turn("user", (ImagePart("a"), "what is on this sign ?")), Turn("assistant", ("i see a red sign",)))
    context = Context(first, Turn("user", (ImagePart("b"), QUESTION)))
    other = np.random.default_rng(1).normal(size=(8, 8, 3)).astype(np.float32)
    return SearchQuestion(QUESTION, ask.image, (other,), context)


@pytest.mark.parametrize("by", ["gcg", "random"])
def test_a_question_behind_earlier_turns_keeps_them_and_all_images(model, behind, by):
    use = dataclasses.replace(USE, steps=2)
    (one,) = suffix.search(model, [behind], SearchTarget(OPENINGS), suffix.PROPOSE[by], use)
    images = np.stack(behind.images)
    assert abs(one.margin - true_margin(model, one.text, images, context=behind.context)) < 1e-4
    assert abs(one.original - margin(model, QUESTION, None, images, OPENINGS, context=behind.context)) < 1e-4
    assert one.margin <= one.start and one.gradients == (use.steps if by == "gcg" else 0)


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
    (one,) = suffix.search(model, [ask], SearchTarget(OPENINGS, steer=guard), gcg.propose, use)
    text = suffix_prompts.with_suffix(QUESTION, one.text)
    assert abs(one.margin - margin(model, text, None, ask.image, OPENINGS, steer=steer_of(text))) < 1e-4
    assert one.gradients == 2
