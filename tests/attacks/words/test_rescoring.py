"""Scores in float32 at batch 1: an independent path to the same numbers, and what low precision changes."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests.attacks.reference import margin
from vlm_mu_jax.attacks.openings import Openings
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.search_run import SearchTarget
from vlm_mu_jax.attacks.words.rescoring import rescore, summary
from vlm_mu_jax.attacks.words.search import FoundWords, SearchOptions, search
from vlm_mu_jax.model.vlm import cast

QUESTIONS, WORDS = ("Share the steps of the dax.", "share the wug on this sign ?"), ("what", "can", "extraordinarily")
SHALLOW = Openings(((5,), (9,)))


def test_float32_scores_of_a_bfloat16_model(model):
    pixels = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    asks = [SearchQuestion(QUESTIONS[0], pixels), SearchQuestion(QUESTIONS[1])]
    low = dataclasses.replace(model, params=cast(model.params, jnp.bfloat16))
    exact_QM = rescore(low, asks, WORDS, SearchTarget(SHALLOW), position="question_start", mode="swap")
    same = dataclasses.replace(model, params=cast(low.params, jnp.float32))
    wanted = [[margin(same, a.question, w, a.image, SHALLOW) for w in WORDS] for a in asks]
    np.testing.assert_allclose(exact_QM, wanted, atol=1e-4)
    found = search(low, asks, WORDS, SearchTarget(SHALLOW), SearchOptions(block=8))["question_start"]
    told = summary(found, range(3), exact_QM)
    assert 1e-3 < told["max_deviation"] < 0.3  # bfloat16 keeps 8 bits
    assert [row["word"] for row in told["scores"]] == list(WORDS)


def test_the_summary_says_whether_the_order_holds():
    found = FoundWords(
        ("a", "b"), np.array([[1.0, 1.5]], np.float32), np.arange(2), np.zeros((1, 1)), np.zeros(1), 0, 0.0
    )
    kept = summary(found, [0, 1], np.array([[1.1, 1.4]], np.float32))
    assert kept["order_holds"] and kept["gap"] == 0.5 and abs(kept["max_deviation"] - 0.1) < 1e-6
    assert not summary(found, [0, 1], np.array([[1.6, 1.4]], np.float32))["order_holds"]
    assert summary(found, [0], np.array([[1.6]], np.float32))["gap"] is None
