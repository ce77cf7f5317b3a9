"""Gradient proposals: the gradient is the margin's own, on the cache as on the whole prompt, and swaps come from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.attacks.margin import prefix
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.scoring import Place, SearchTask
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.methods import gcg, suffix_prompts
from vlm_mu_jax.attacks.methods.suffix_prompts import Scorer, SuffixOptions
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import Batch, embed, forward

QUESTION, TEXT = "share the steps of the dax on this sign ?", "what the fep can"
OTHER = "what is on the wug ?"
SHALLOW = Openings(((5,), (9,)))


def scorer_of(model, image, question=QUESTION, steer=None):
    task = SearchTask(
        model.config, model.processor, SearchTarget(SHALLOW, steer=steer), (), ("question_end",), block=16
    )
    return Scorer(task, Place(model.params, task), SearchQuestion(question, image))


def slots_of(model, question):
    return suffix_prompts.slots(model.processor, question, TEXT, 1)


def by_definition(model, image, now, question=QUESTION, steer=None):
    """Slope [S, V] of length 1 of every token at every place: the gradient through a plain forward of the prompt."""
    ids = model.processor.prompt_ids(suffix_prompts.with_suffix(question, TEXT), [image])
    batch = Batch(np.array([ids], np.int32), np.array([len(ids)], np.int32), image[None, None])

    def margin(x_1TD):
        row = Batch(batch.tokens_BT, batch.lengths_B, embedded_BTD=x_1TD)
        p = jax.nn.softmax(forward(model.params, row, model.config, steer=steer).logits_BTV[0, -1])
        yes = p[5] + p[9]
        return jnp.log(yes) - jnp.log1p(-yes)

    slope = jax.grad(margin)(embed(model.params, batch, model.config))[0]
    start = len(ids) - len(now.tail) - len(now.ids)
    gain_SV = np.asarray(-slope[start : start + len(now.ids)] @ model.params["decoder"]["embed_VD"].T)
    return gain_SV / np.linalg.norm(gain_SV, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def allowed(model):
    return suffix_prompts.vocabulary(model.processor, model.config.text.V)


def check_best(top_SK, gain_SV, allowed):
    """The tokens are the best of those allowed; near ties may change places."""
    gain_SV = np.where(np.isin(np.arange(gain_SV.shape[1]), allowed), gain_SV, -np.inf)
    got = np.take_along_axis(gain_SV, top_SK, axis=1)
    np.testing.assert_allclose(got, -np.sort(-gain_SV, axis=1)[:, : top_SK.shape[1]], rtol=1e-3)
    assert np.isin(top_SK, allowed).all()


def test_the_best_swaps_are_those_of_the_gradients_together(model, image, allowed):
    scorer, other = scorer_of(model, image), scorer_of(model, image, OTHER)
    open_ = [(one, slots_of(model, one.question)) for one in (scorer, other)]
    gains = [
        by_definition(model, image, now, question) for (_, now), question in zip(open_, (QUESTION, OTHER), strict=True)
    ]
    check_best(gcg._best_swaps(open_[:1], allowed, 5), gains[0], allowed)
    check_best(gcg._best_swaps(open_, allowed, 5), sum(gains), allowed)
    assert (scorer.gradients, other.gradients) == (2, 1)


@pytest.mark.parametrize(
    ("scope", "gated"), [("all", True), ("text", False), ("image", False)], ids=["on the whole prompt", "text", "image"]
)
def test_the_gradient_goes_through_the_guard(model, image, allowed, scope, gated):
    cfg = model.config.text
    basis = np.random.default_rng(1).normal(size=(cfg.L, 1, cfg.D)).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=-1, keepdims=True)
    steer = Steer(
        basis, jnp.full((cfg.L,), 2.0), jnp.zeros((cfg.L, cfg.D)), jnp.full((cfg.L,), -1e3), gated=gated, scope=scope
    )
    scorer = scorer_of(model, image, steer=steer)
    now = slots_of(model, QUESTION)
    guarded, plain = (by_definition(model, image, now, steer=one) for one in (steer, None))
    np.testing.assert_allclose(np.asarray(gcg._slopes(scorer, now)), guarded, atol=1e-4)
    assert np.abs(guarded - plain).max() > 1e-3


def test_proposals_change_one_token_each_and_share_the_questions_cache(model, image, allowed):
    scorer = scorer_of(model, image)
    now = slots_of(model, QUESTION)
    use, rng = SuffixOptions(candidates=13, top=4), np.random.default_rng(0)
    proposed = gcg.propose([(scorer, now)], now.ids, allowed, use, rng)
    assert proposed.shape == (12, len(now.ids)) and len(np.unique(proposed, axis=0)) == 12
    assert ((proposed != np.array(now.ids)).sum(axis=1) <= 1).all()
    before = scorer.shared.flops
    prompts = prefix.tokenise(model.processor, QUESTION, (image,), [Placed(QUESTION)])
    cache = scorer.shared.prefix(prompts, None)
    gcg.propose([(scorer, now)], now.ids, allowed, use, rng)
    assert scorer.shared.flops == before and scorer.shared.prefix(prompts, None) is cache
