"""Gradient proposals: the gradient is the margin's own, on the cache as on the whole prompt, and swaps come from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.attack import candidates, gcg, prefix, suffix
from vlm_mu_jax.attack.openings import Openings
from vlm_mu_jax.attack.question import Place, Task
from vlm_mu_jax.attack.search import Ask
from vlm_mu_jax.attack.words import Placed
from vlm_mu_jax.model.llava import Batch, embed, forward

QUESTION, TEXT = "share the steps of the dax on this sign ?", "what the fep can"
SHALLOW = Openings(((5,), (9,)))


def scorer_of(model, image):
    task = Task(
        model.config, model.processor, (), ("question_end",), "insert", SHALLOW.nodes, -1.0, 1, 16, None, None
    )  # fmt: skip
    return suffix.Scorer(task, Place(model.params, task), Ask(QUESTION, image))


def by_definition(model, image, now, allowed):
    """Gain [S, V] of every token at every place: the gradient through a plain forward of the whole prompt."""
    ids = model.processor.prompt_ids(suffix.with_suffix(QUESTION, TEXT), [image])
    batch = Batch(np.array([ids], np.int32), np.array([len(ids)], np.int32), image[None, None])
    given = dataclasses.replace(model.config, image_token_id=-1)

    def margin(x_1TD):
        row = Batch(jnp.full((1, len(ids)), -1), batch.lengths_B, None, x_1TD)
        p = jax.nn.softmax(forward(model.params, row, given).logits_BTV[0, -1])
        yes = p[5] + p[9]
        return jnp.log(yes) - jnp.log1p(-yes)

    slope = jax.grad(margin)(embed(model.params, batch, model.config))[0]
    start = len(ids) - len(now.tail) - len(now.ids)
    gain = -slope[start : start + len(now.ids)] @ model.params["decoder"]["embed_VD"].T
    return np.where(np.isin(np.arange(gain.shape[1]), allowed), gain, -np.inf)


def test_the_best_swaps_are_those_of_the_gradient(model):
    image = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    scorer = scorer_of(model, image)
    now, allowed = scorer.slots(TEXT), suffix.vocabulary(model.processor, model.config.text.V)
    gain_SV = by_definition(model, image, now, allowed)
    top_SK = gcg._best_swaps(scorer, now, allowed, 5)
    got = np.take_along_axis(gain_SV, top_SK, axis=1)
    np.testing.assert_allclose(got, -np.sort(-gain_SV, axis=1)[:, :5], rtol=1e-3)  # near ties may change places
    assert np.isin(top_SK, allowed).all() and scorer.gradients == 1

    # the same on the whole prompt, as under a guard whose gates depend on the suffix
    whole = scorer.task.processor.prompt_ids(suffix.with_suffix(QUESTION, TEXT), [image])
    start = len(whole) - len(now.tail) - len(now.ids)
    allowed_V = np.isin(np.arange(model.config.text.V), allowed)
    row = model.processor.pad([whole], length=64)
    again_SK = gcg.best_swaps(
        model.params, None, 0, row.tokens_BT, row.lengths_B, prefix.image_features(model.params, image, model.config),
        np.arange(start, start + len(now.ids)), allowed_V, -1.0, cfg=model.config, nodes=SHALLOW.nodes, count=5,
    )  # fmt: skip
    again = np.take_along_axis(gain_SV, np.asarray(again_SK), axis=1)
    np.testing.assert_allclose(again, got, rtol=1e-3)


def test_proposals_change_one_token_each_and_share_the_questions_cache(model):
    image = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    scorer = scorer_of(model, image)
    now, allowed = scorer.slots(TEXT), suffix.vocabulary(model.processor, model.config.text.V)
    use, rng = suffix.Settings(candidates=13, top=4), np.random.default_rng(0)
    proposed = gcg.propose(scorer, now, allowed, use, rng)
    assert proposed.shape == (12, len(now.ids)) and len(np.unique(proposed, axis=0)) == 12
    assert ((proposed != np.array(now.ids)).sum(axis=1) <= 1).all()
    before = scorer.shared.flops
    prompts = candidates.tokenise(model.processor, QUESTION, (image,), [Placed(QUESTION)])
    cache = scorer.shared.prefix(prompts, None)
    gcg.propose(scorer, now, allowed, use, rng)
    assert scorer.shared.flops == before and scorer.shared.prefix(prompts, None) is cache
