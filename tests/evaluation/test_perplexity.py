"""Perplexity: equal to a plain forward pass, the same in any batch, and intervals that say what they cover."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_mu_jax.data.records import ImagePart, Record, Turn
from vlm_mu_jax.data.rendering import contexts_of
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import perplexity
from vlm_mu_jax.evaluation.perplexity import AnswerLikelihood, Perplexity, summary
from vlm_mu_jax.model.vlm import Batch, forward

QUESTIONS = ["what is a dax ?", "share the way of wug .", "is it ?", "what ?"]
ANSWERS = ["a then b .", "i am sorry", "yes", ""]


def plain(model, prompt):
    """The score of the first answer behind these ids, by one forward pass."""
    ids = [*prompt, *model.processor.tokenizer(" " + ANSWERS[0])["input_ids"][1:]]
    params = jax.tree.map(jnp.asarray, model.params)
    logits = forward(params, Batch(jnp.array([ids]), jnp.array([len(ids)])), model.config).logits_BTV[0]
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    expected = -sum(logprobs[t - 1, ids[t]] for t in range(len(prompt), len(ids)))
    return AnswerLikelihood(pytest.approx(expected, rel=1e-5), len(ids) - len(prompt))


def test_an_answer_is_scored_behind_the_words_of_its_conversation(model):
    said = [Turn("user", (ImagePart("a.png"), "see ?")), Turn("assistant", ("yes",)), Turn("user", (QUESTIONS[0],))]
    (context,) = contexts_of([Record("r", turns=said, kind="safe", at=1)])
    words = [Turn("user", ("see ?",)), *said[1:]]
    found = Perplexity(model, batch_size=1)(QUESTIONS[:1], ANSWERS[:1], contexts=[context])
    assert found == [plain(model, model.processor.conversation_ids(words))]


def test_a_score_is_that_of_a_plain_forward_pass_in_any_batch(model):
    found = Perplexity(model, batch_size=3)(QUESTIONS, ANSWERS)
    assert found[0] == plain(model, model.processor.prompt_ids(QUESTIONS[0], 0))
    assert found[3] == AnswerLikelihood(0.0, 0)
    assert [s.nll for s in Perplexity(model, batch_size=2)(QUESTIONS[::-1], ANSWERS[::-1])] == pytest.approx(
        [s.nll for s in found[::-1]], rel=1e-5
    )


def test_batches_of_one_width_share_one_program(model, monkeypatch):
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(perplexity._nll.__wrapped__, n=1)
    monkeypatch.setattr(perplexity, "_nll", jax.jit(counted, static_argnames="cfg"))
    assert len(Perplexity(model, batch_size=2)(["is it ?"] * 5, ["yes", "no", "so", "it is", "a"])) == 5


def test_a_pair_longer_than_the_model_is_an_input_error(model):
    with pytest.raises(InputError, match="the perplexity model takes 512"):
        Perplexity(model)(["a" * 500], ["b" * 50])


def test_summary_is_token_weighted_and_counts_empty_answers_for_length_only():
    found = summary([AnswerLikelihood(2.0, 1), AnswerLikelihood(2.0, 3), AnswerLikelihood(0.0, 0)])
    assert found["perplexity"]["value"] == pytest.approx(np.exp(1.0)) and found["perplexity"]["n"] == 2
    assert found["tokens"]["value"] == pytest.approx(4 / 3) and found["tokens"]["n"] == 3
    low, high = found["perplexity"]["low"], found["perplexity"]["high"]
    assert low == pytest.approx(np.exp(2 / 3)) and high == pytest.approx(np.exp(2.0))
    assert summary([])["perplexity"] == {"value": None, "n": 0, "low": None, "high": None}
    assert summary([AnswerLikelihood(float("nan"), 2)])["perplexity"]["value"] is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        nll = rng.exponential(1.0, 60)
        one = summary([AnswerLikelihood(float(x), 1) for x in nll], seed=trial)["perplexity"]
        hits += one["low"] <= np.e <= one["high"]
    assert 86 <= hits <= 100
