"""Saliency: gradient x input against finite differences of whole forward passes, removal against the definition."""

import jax
import numpy as np
import pytest

from tests.attacks import reference
from vlm_mu_jax.attacks.audit import saliency
from vlm_mu_jax.attacks.margin import openings
from vlm_mu_jax.attacks.questions import SearchQuestion
from vlm_mu_jax.data.placing import word_spans
from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.reporting.figures import word_effects

QUESTION = "Share the steps of the blick on this sign ?"


@pytest.fixture(scope="module")
def tree():
    """Openings of two tokens with one beginning: the root of their tree has no refusal of its own."""
    return openings.Openings(((300, 310), (300, 320)))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def found(model, image, tree):
    return saliency.saliency(model, [SearchQuestion(QUESTION, image)], tree)[0]


@pytest.fixture(scope="module")
def margin(tree):
    return lambda model, question, image: reference.margin(model, question, None, image, tree)


def test_margin_and_words(model, image, tree, found, margin):
    assert len(tree.nodes) == 2 and not tree.nodes[0].refusal
    assert abs(found.margin - margin(model, QUESTION, image)) < 1e-4
    assert found.words == tuple(QUESTION.split()[:-1])


def test_removal_is_the_margin_of_the_question_without_the_word(model, image, found, margin):
    words = QUESTION.split()
    for w in range(len(found.words)):
        rest = " ".join(words[:w] + words[w + 1 :])
        assert abs(found.removal_W[w] - (margin(model, QUESTION, image) - margin(model, rest, image))) < 2e-4


def test_gradient_x_input_is_the_slope_of_the_margin_as_a_word_fades(model, image, tree, found, margin):
    """Words whose tokens stand nowhere else: scaling those rows of the embedding table fades the word and no other."""
    ids = model.processor.prompt_ids(QUESTION, 1)
    opening_ids = {token for opening in tree.refusal for token in opening}
    tested = 0
    for w, (start, end) in enumerate(word_spans(QUESTION)):
        mine = _ids_of(model, QUESTION, start, end)
        if any(ids.count(i) > 1 or i in opening_ids for i in mine):
            continue
        slope = _slope(model, mine, image, margin)
        assert abs(found.gradient_W[w] - slope) < 2e-3 * max(1, abs(slope)), found.words[w]
        tested += 1
    assert tested >= 3


def test_gradient_x_input_of_the_image_is_the_slope_as_it_fades(model, image, found, margin):
    """The image's tokens are the projector's last layer, so scaling that fades them and nothing else."""
    eps = 1e-2
    scaled = []
    for factor in (1 + eps, 1 - eps):
        projector = model.params["projector"]
        last = {name: projector[name] * factor for name in projector if name in ("w2_DD", "b2_D")}
        params = model.params | {"projector": projector | last}
        scaled.append(margin(type(model)(params, model.config, model.processor), QUESTION, image))
    slope = (scaled[0] - scaled[1]) / (2 * eps)
    assert abs(found.image - slope) < 2e-3 * max(1, abs(slope))


def test_nothing_is_lost_between_words_image_and_template(model, image, tree, found):
    features = saliency.prefix.image_features(model.params, [image], model.config)
    ids = model.processor.prompt_ids(QUESTION, 1)
    row = model.processor.pad([ids], length=bucket(len(ids)))
    score, by_token_T = saliency.gradient_x_input(
        model.params, row.tokens_BT, row.lengths_B, features, cfg=model.config, nodes=tree.nodes
    )
    total = float(np.asarray(by_token_T)[: len(ids)].sum())
    assert abs(found.gradient_W.sum() + found.image + found.template - total) < 1e-4
    assert abs(float(score) - found.margin) < 1e-5


def test_text_alone(make_model):
    first = openings.Openings(((300,),))
    one = saliency.saliency(make_model(vision=False), [SearchQuestion("what the dax")], first)[0]
    assert one.image == 0 and np.abs(one.removal_W).max() > 0
    assert np.isfinite(one.gradient_W).all() and np.abs(one.gradient_W).max() > 0


@pytest.mark.parametrize("kind", ["word_level", "byte_level", "metaspace", "no_split"])
def test_every_tokenizer_gives_each_word_its_tokens(kind, make_model):
    processor = make_model(kind=kind).processor
    spans = word_spans(QUESTION)
    ids = processor.prompt_ids(QUESTION, 1)
    owner_T = saliency._owners(processor, SearchQuestion(QUESTION), 1, spans, len(ids))
    for w, (start, end) in enumerate(spans):
        text = processor.tokenizer.decode([i for i, owner in zip(ids, owner_T, strict=True) if owner == w])
        assert QUESTION[start:end] in text or kind == "no_split"
    assert set(owner_T) >= ({-1, 0} if kind == "no_split" else {-1, 0, len(spans) - 1})  # a piece may span words


def test_summary_counts_questions_in_which_the_opening_decides():
    def one(words, gradient, removal):
        return saliency.Salient("", tuple(words), 0.0, np.array(gradient), np.array(removal), 0.0, 0.0)

    found = [one(["Share", "b"], [3.0, 1.0], [-3.0, 1.0]), one("share b c d".split(), [0.0, 1, 0, 0], [1.0, 0, 0, 0])]
    result = saliency.summary([*found, one([], [], [])])
    assert result["n"] == 2 and np.isclose(result["chance"], 0.375)
    assert result["removal"]["opening_first"]["k"] == 2 and result["gradient_x_input"]["opening_first"]["k"] == 1
    assert np.isclose(result["removal"]["opening_share"], (0.75 + 1) / 2)
    assert result["removal"]["by_opening"] == {"share": {"n": 2, "effect": -1.0}}
    drawing = word_effects.saliency({"questions": [f.to_dict() for f in found]})
    assert ">Share</text>" in drawing and word_effects.saliency({"questions": []}) is None


def test_questions_are_drawn_by_seed(tmp_path):
    records = [Record(str(i), None, "what", "", "safe" if i % 2 else "general") for i in range(20)]
    source = Records(tuple(records), tmp_path, tmp_path, "")
    chosen = saliency.drawn(source, 5, 0)
    assert chosen == saliency.drawn(source, 5, 0) != saliency.drawn(source, 5, 1)
    assert [int(r.id) for r in chosen] == sorted(int(r.id) for r in chosen) and {r.kind for r in chosen} == {"safe"}
    assert len(saliency.drawn(source, 50, 0)) == 10


@pytest.mark.parametrize("span, rest", [((0, 5), "is this?"), ((6, 8), "Which this?"), ((9, 13), "Which is ?")])
def test_a_removed_word_leaves_no_double_space(span, rest):
    assert saliency.without("Which is this?", span) == rest


def _ids_of(model, question, start, end):
    text = model.processor.prompt_text(question, 1)
    at = text.index(question)
    found = model.processor.tokenizer(text, return_offsets_mapping=True)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [i for i, (a, b) in pairs if a < at + end and b > at + start]


def _slope(model, ids, image, margin):
    eps, scores = 1e-2, []
    for factor in (1 + eps, 1 - eps):
        table = model.params["decoder"]["embed_VD"]
        table = table.at[np.array(ids)].multiply(factor)
        params = jax.tree.map(lambda leaf: leaf, model.params)
        params["decoder"]["embed_VD"] = table
        scores.append(margin(type(model)(params, model.config, model.processor), QUESTION, image))
    return (scores[0] - scores[1]) / (2 * eps)
