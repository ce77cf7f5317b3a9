"""The search equals a full forward per candidate, whatever is shared, and keeps what numpy keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attacks.reference import margin
from vlm_mu_jax.attacks.margin import margin as margin_lib
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchRun, SearchTarget
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.attacks.words import search
from vlm_mu_jax.attacks.words.search import FoundWords, SearchOptions, against_float32, rescore
from vlm_mu_jax.data.chat_template import JinjaTemplate
from vlm_mu_jax.data.placing import POSITIONS
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.model.vlm import cast

QUESTIONS = (
    "Share the steps of the dax.",
    "share the wug on this sign ?",
    "Please explain the zorp on this sign now ?",
)
WORDS = ("what", "describe", "can", "please", "blick", "extraordinarily", "fep", "share")  # one of them is many tokens
FEW = ("what", "can", "extraordinarily")
SHALLOW = Openings(((5,), (9,)))
DEEP = Openings(((5,), (7, 8), (7, 9, 10), (11, 12)))


def asks():
    pixels = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    return [SearchQuestion(question, image) for question, image in zip(QUESTIONS, [*pixels[:2], None], strict=True)]


def truth(model, some, words, openings, position="question_start", mode="swap"):
    return np.array([[margin(model, a.question, w, a.image, openings, position, mode) for w in words] for a in some])


@pytest.mark.parametrize(("openings", "mode"), [(SHALLOW, "insert"), (DEEP, "swap")], ids=["one_token", "tree"])
def test_every_candidate_equals_a_full_forward(model, openings, mode):
    some = asks()
    found = search.search(
        model, some, WORDS, SearchTarget(openings), SearchOptions(positions=POSITIONS, mode=mode, block=8)
    )
    for position in POSITIONS:
        truth_QW = truth(model, some, WORDS, openings, position, mode)
        np.testing.assert_allclose(found[position].margins_QW, truth_QW, atol=1e-4)
        assert truth_QW.std(axis=1).min() > 0.01  # the words differ by far more than the tolerance
        assert found[position].best.tolist() == np.argsort(truth_QW.mean(0))[:3].tolist()
        assert found[position].best_per_question.tolist() == np.argsort(truth_QW, axis=1)[:, :3].tolist()
    original = [margin(model, a.question, None, a.image, openings) for a in some]
    np.testing.assert_allclose(found[POSITIONS[0]].original_Q, original, atol=1e-4)


def test_a_question_behind_earlier_turns_with_images_equals_a_full_forward(model):
    first, second = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    before = (Turn("user", (ImagePart("a"), "so ?")), Turn("assistant", ("a red sign",)))
    context = Context(before, Turn("user", (ImagePart("b"), "share the wug")))
    some = [SearchQuestion("share the wug", first, (second,), context)]
    use = SearchOptions(positions=("question_start", "response_prefix"), block=8)
    found = search.search(model, some, WORDS, SearchTarget(DEEP), use)
    both = np.stack([first, second])
    for position in use.positions:
        want = [margin(model, "share the wug", w, both, DEEP, position, context=context) for w in WORDS]
        np.testing.assert_allclose(found[position].margins_QW[0], want, atol=1e-4)
        assert found[position].in_full < len(WORDS)  # the earlier turns run once
    alone = [margin(model, "share the wug", w, both, DEEP) for w in WORDS]
    assert np.abs(found["question_start"].margins_QW[0] - alone).max() > 1e-3  # they count
    assert some[0].key("") != dataclasses.replace(some[0], context=None).key("")


def test_over_refusal_looks_for_the_highest_margin(model):
    down = search.search(model, asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(top=8, block=8))["question_start"]
    up = search.search(model, asks(), WORDS, SearchTarget(SHALLOW, goal="over_refuse"), SearchOptions(top=8, block=8))[
        "question_start"
    ]
    assert up.best.tolist() == down.best.tolist()[::-1] == np.argsort(-down.margins_W).tolist()
    assert up.best_per_question.tolist() == np.argsort(-down.margins_QW, axis=1).tolist()


def test_two_images_with_the_same_text_do_not_share_a_cache(model):
    first, second, _ = asks()
    some = [
        SearchQuestion(QUESTIONS[0], first.image),
        SearchQuestion(QUESTIONS[0], second.image),
        SearchQuestion(QUESTIONS[0], first.image),
    ]
    found = search.search(model, some, WORDS, SearchTarget(SHALLOW), SearchOptions(block=8))["question_start"]
    np.testing.assert_allclose(found.margins_QW, truth(model, some, WORDS, SHALLOW), atol=1e-4)
    assert np.abs(found.margins_QW[0] - found.margins_QW[1]).min() > 1e-3
    np.testing.assert_array_equal(found.margins_QW[0], found.margins_QW[2])


def test_pieces_that_merge_across_the_boundary_are_run_whole_and_counted(make_model):
    """This tokenizer makes "the wug" one token, so the prompt that was run once is not the start of that candidate."""
    model, some, words = make_model(kind="no_split"), [SearchQuestion("can the")], ("what", "wug", "fep", "please")
    found = search.search(
        model, some, words, SearchTarget(SHALLOW), SearchOptions(positions=("question_end",), mode="insert", block=4)
    )
    found = found["question_end"]
    assert 0 < found.in_full < len(words)
    np.testing.assert_allclose(
        found.margins_QW, truth(model, some, words, SHALLOW, "question_end", "insert"), atol=1e-4
    )


# It puts the question before the image, so that a word changes every image token's state.
QUESTION_FIRST = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else ' ' }}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% for part in m.content if part.type == 'image' %}{{ '\\n<image>\\n' }}{% endfor %}"
    "{% if m.role == 'user' %}{{ ' ASSISTANT:' }}{% endif %}{% endfor %}"
)


def test_a_word_before_the_image_loses_the_prefix_and_that_is_said(model):
    processor = model.processor.with_template(JinjaTemplate(QUESTION_FIRST))
    other = dataclasses.replace(model, processor=processor)
    some = asks()[:2]
    found = search.search(
        other,
        some,
        WORDS[:4],
        SearchTarget(SHALLOW),
        SearchOptions(positions=("question_start", "response_prefix"), top=2, block=8),
    )
    start, prefix = found["question_start"], found["response_prefix"]
    assert start.in_full == 2 * 4 and prefix.in_full == 0
    np.testing.assert_allclose(start.margins_QW, truth(other, some, WORDS[:4], SHALLOW), atol=1e-4)
    np.testing.assert_allclose(prefix.margins_QW, truth(other, some, WORDS[:4], SHALLOW, "response_prefix"), atol=1e-4)


def test_block_size_changes_nothing(model):
    runs = [
        search.search(model, asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(top=8, block=b))["question_start"]
        for b in (8, 5)
    ]
    np.testing.assert_allclose(runs[1].margins_QW, runs[0].margins_QW, atol=1e-5)
    assert runs[1].best.tolist() == runs[0].best.tolist()
    assert runs[1].flops == runs[0].flops > 0


def test_a_second_search_of_the_same_shape_compiles_nothing(model):
    search.search(model, asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(block=8))
    before = margin_lib.score._cache_size()
    search.search(model, asks(), WORDS[::-1], SearchTarget(SHALLOW, goal="over_refuse"), SearchOptions(block=8))
    assert margin_lib.score._cache_size() == before


def test_more_best_words_than_candidates_are_all_candidates(model):
    found = search.search(model, asks(), WORDS[:2], SearchTarget(SHALLOW), SearchOptions(top=5, block=8))[
        "question_start"
    ]
    assert sorted(found.best.tolist()) == [0, 1] and found.best_per_question.shape == (3, 2)


def test_margin_keeps_its_precision_near_certainty(model):
    """Probabilities 1 - 1e-12 and 1e-12 still have different margins; a naive 1 - p would be 0."""
    decoder = model.params["decoder"]
    loud = {**model.params, "decoder": {**decoder, "head_DV": decoder["head_DV"] * 40}}
    found = search.search(
        dataclasses.replace(model, params=loud), asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(block=8)
    )["question_start"]
    assert np.isfinite(found.margins_QW).all() and np.abs(found.original_Q).max() > 20


def test_lora_adapters_are_inside_the_attacked_program(model):
    rng = np.random.default_rng(2)
    D, L, R = model.config.text.D, model.config.text.L, 2
    pair = {"a": rng.normal(size=(L, D, R)), "b": rng.normal(size=(L, R, model.config.text.F))}
    lora = {"wgate_LDF": {k: jnp.asarray(v, jnp.float32) for k, v in pair.items()} | {"scale": jnp.ones((L,))}}
    some = asks()[:1]
    found = search.search(model, some, WORDS[:4], SearchTarget(SHALLOW, lora=lora), SearchOptions(block=8))[
        "question_start"
    ]
    wanted = [margin(model, some[0].question, w, some[0].image, SHALLOW, lora=lora) for w in WORDS[:4]]
    np.testing.assert_allclose(found.margins_QW[0], wanted, atol=1e-4)
    assert np.abs(wanted - truth(model, some, WORDS[:4], SHALLOW)[0]).max() > 1e-2


def test_progress_counts_the_work(model):
    seen = []

    def progress(steps, label, total):
        items = list(steps)
        seen.append((label, total, len(items)))
        return items

    search.search(
        model,
        asks(),
        WORDS,
        SearchTarget(SHALLOW),
        SearchOptions(positions=POSITIONS, block=8),
        SearchRun(progress=progress),
    )
    assert seen == [("jailbreak words", 3 * (1 + 4 * 8) // 8, 3 * (1 + 4 * 8) // 8)]


def test_bad_searches_are_named(model):
    with pytest.raises(InputError, match="0 candidate words"):
        search.search(model, asks(), [], SearchTarget(SHALLOW))
    with pytest.raises(InputError, match="positions=middle"):
        search.search(model, asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(positions=("middle",)))
    with pytest.raises(InputError, match="256 positions"):
        search.search(model, [SearchQuestion("share " * 300)], WORDS, SearchTarget(SHALLOW))
    broken = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
    with pytest.raises(JobError, match="not a finite number"):
        search.search(broken, asks(), WORDS, SearchTarget(SHALLOW), SearchOptions(block=8))


def test_text_only_model(make_model):
    model = make_model(vision=False)
    some = [SearchQuestion(question) for question in QUESTIONS[:2]]
    found = search.search(model, some, WORDS[:3], SearchTarget(SHALLOW), SearchOptions(block=8))["question_start"]
    np.testing.assert_allclose(found.margins_QW, truth(model, some, WORDS[:3], SHALLOW), atol=1e-4)


def test_float32_scores_of_a_bfloat16_model(model):
    pixels = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    asks = [SearchQuestion(QUESTIONS[0], pixels), SearchQuestion(QUESTIONS[1])]
    low = dataclasses.replace(model, params=cast(model.params, jnp.bfloat16))
    exact_QM = rescore(low, asks, FEW, SearchTarget(SHALLOW), position="question_start", mode="swap")
    same = dataclasses.replace(model, params=cast(low.params, jnp.float32))
    wanted = [[margin(same, a.question, w, a.image, SHALLOW) for w in FEW] for a in asks]
    np.testing.assert_allclose(exact_QM, wanted, atol=1e-4)
    found = search.search(low, asks, FEW, SearchTarget(SHALLOW), SearchOptions(block=8))["question_start"]
    told = against_float32(found, range(3), exact_QM)
    assert 1e-3 < told["max_deviation"] < 0.3  # bfloat16 keeps 8 bits
    assert [row["word"] for row in told["scores"]] == list(FEW)


def test_the_summary_says_whether_the_order_holds():
    found = FoundWords(
        ("a", "b"), np.array([[1.0, 1.5]], np.float32), np.arange(2), np.zeros((1, 1)), np.zeros(1), 0, 0.0
    )
    kept = against_float32(found, [0, 1], np.array([[1.1, 1.4]], np.float32))
    assert kept["order_holds"] and kept["gap"] == 0.5 and abs(kept["max_deviation"] - 0.1) < 1e-6
    assert not against_float32(found, [0, 1], np.array([[1.6, 1.4]], np.float32))["order_holds"]
    assert against_float32(found, [0], np.array([[1.6]], np.float32))["gap"] is None
