"""Guards are inside the attacked program: every candidate has the margin of the guarded model, whatever its gates."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.attacks.reference import margin
from vlm_mu_jax.attacks.margin.guards import FirstPass, by_gates
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words import search
from vlm_mu_jax.attacks.words.search import SearchOptions
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering import gates
from vlm_mu_jax.steering.hidden_states import batch_states

QUESTION = "Share the steps of the dax."
WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share", "zorp", "wug", "the", "toma")
POSITIONS = ("question_start", "response_prefix")
SHALLOW, TREE = Openings(((5,), (9,))), Openings(((5,), (7, 8)))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)


def states_of(model, question, images):
    batch = model.processor.pad([model.processor.prompt_ids(question, images)], [images], length=96)
    return batch_states(model, batch)


@pytest.fixture(scope="module")
def steer(model, image):
    """Thresholds between the candidates' scores, so that the layers' gates go both ways."""
    cfg = model.config.text
    basis = np.random.default_rng(1).normal(size=(cfg.L, 1, cfg.D)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=-1, keepdims=True)
    states = [states_of(model, place(QUESTION, word).question, [image])[:, 0] for word in WORDS]
    threshold_L = np.median([np.einsum("ld,ld->l", one, basis[:, 0]) for one in states], axis=0).astype(np.float32)
    return Steer(basis, jnp.full((cfg.L,), 2.0), jnp.zeros((cfg.L, cfg.D)), threshold_L, gated=True)


def check(model, image, found, steer_of, openings):
    """found against the reference; returns the reference's margins of the first position."""
    for position in found:
        wanted = [
            margin(model, QUESTION, w, image, openings, position, steer=steer_of(place(QUESTION, w, position).question))
            for w in WORDS
        ]
        np.testing.assert_allclose(found[position].margins_QW[0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("scope", "openings"), [("all", TREE), ("prompt", TREE), ("last", SHALLOW)], ids=["all", "prompt", "last"]
)
def test_gates_that_every_layer_decides_while_the_prompt_runs(model, image, steer, scope, openings):
    steer = steer.replace(scope=scope)
    found = search.search(
        model,
        [SearchQuestion(QUESTION, image)],
        WORDS,
        SearchTarget(openings, steer=steer),
        SearchOptions(positions=POSITIONS, block=8),
    )
    check(model, image, found, lambda question: steer, openings)
    plain = search.search(
        model,
        [SearchQuestion(QUESTION, image)],
        WORDS,
        SearchTarget(openings),
        SearchOptions(positions=POSITIONS, block=8),
    )
    assert np.abs(found[POSITIONS[0]].margins_QW - plain[POSITIONS[0]].margins_QW).max() > 1e-2  # the guard does act


def test_candidates_really_disagree_with_the_unchanged_prompt_about_the_gates(model, image, steer):
    """Or the test above would never run a second round."""
    gate_LD = steer.basis_LMD[:, 0] if steer.gate_LD is None else steer.gate_LD
    states = [states_of(model, place(QUESTION, w).question, [image]) for w in WORDS]
    scores = [gates.decisions(one, gate_LD, steer.threshold_L)[:, 0].tobytes() for one in states]
    assert len(set(scores)) > 1


@pytest.mark.parametrize(("text_only", "erased"), [(False, 0), (True, 0), (True, 1)])
def test_guards_that_decide_once_per_example_from_a_first_pass(model, image, steer, text_only, erased):
    seen = [] if text_only else [image]
    positions = ("question_end", "response_prefix") if erased else POSITIONS
    states = np.concatenate([states_of(model, place(QUESTION, w).question, seen) for w in WORDS], axis=1)
    middle_L = np.median(np.einsum("lbd,ld->lb", states, steer.basis_LMD[:, 0]), axis=1)
    steer = steer.replace(threshold_L=middle_L, scope="last" if text_only else "prompt", hide_image=text_only)
    guard = FirstPass(lambda states_LBD: gates.per_example(steer, states_LBD, quorum=1.0), text_only, erased)

    def steer_of(question):
        read = [guard.steer_of(states_of(model, text, seen)) for text in guard.texts(question)]
        return read[0].replace(gate_LB=np.any([one.gate_LB for one in read], axis=0))

    asked = [place(QUESTION, w, position).question for w in WORDS for position in positions]
    votes = {text: bool(steer_of(text).gate_LB.any()) for text in asked}
    assert {*votes.values()} == {True, False}
    whole = [bool(guard.steer_of(states_of(model, text, seen)).gate_LB.any()) for text in votes]
    assert (whole != [*votes.values()]) == bool(erased), "the shortened texts decide nothing"
    found = search.search(
        model,
        [SearchQuestion(QUESTION, image)],
        WORDS,
        target := SearchTarget(SHALLOW, steer=guard),
        SearchOptions(positions=positions, block=8),
    )
    check(model, image, found, steer_of, SHALLOW)
    few, question = WORDS[:3], SearchQuestion(QUESTION, image)
    again_QM = search.rescore(model, [question], few, target, position=positions[0], mode="swap")
    np.testing.assert_allclose(again_QM, found[positions[0]].margins_QW[:, :3], atol=2e-5)


def test_a_search_that_changes_no_words_refuses_a_gate_over_shortened_texts():
    with pytest.raises(InputError, match="--method=gcg"):
        FirstPass(lambda states: None, True, 1).check_whole("gcg")
    FirstPass(lambda states: None, True).check_whole("gcg")


def test_groups_of_equal_gates():
    gate_LN = np.array([[1, 0, 1, 1], [0, 0, 0, 1]], bool)
    groups = [(pattern.tolist(), index.tolist()) for pattern, index in by_gates(gate_LN)]
    assert groups[0] == ([True, False], [0, 2])
    assert sorted(groups[1:]) == [([False, False], [1]), ([True, True], [3])]
