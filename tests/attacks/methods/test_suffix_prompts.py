"""Suffixes as ids: where they stand, and which proposals are sent as what was proposed."""

import numpy as np
import pytest

from vlm_mu_jax.attacks.methods import suffix_prompts
from vlm_mu_jax.errors import InputError

QUESTION = "share the steps of the dax on this sign ?"


@pytest.mark.parametrize("kind", ["word_level", "byte_level", "metaspace", "no_split"])
def test_survivors_are_tokenised_to_what_was_proposed(make_model, kind):
    processor = make_model(kind=kind).processor
    allowed = suffix_prompts.vocabulary(processor, len(processor.tokenizer))
    assert not {0, 1, 2, 3, 4} & set(allowed.tolist())  # special tokens, the image's among them
    rng = np.random.default_rng(1)
    now = suffix_prompts.slots(processor, QUESTION, "what the fep can", 1)
    bare = processor.short_ids([(QUESTION, "")], 1)[0]
    if kind != "no_split":  # that one merges a suffix with the question's last piece
        assert now.head + now.tail == bare
    proposed = np.tile(np.array(now.ids), (40, 1))
    proposed[np.arange(40), rng.integers(0, len(now.ids), 40)] = rng.choice(allowed, 40)
    texts, rows = suffix_prompts.surviving(processor, QUESTION, now, proposed, 1)
    assert len(set(texts)) == len(texts) == len(rows)
    for text, row in zip(texts, rows, strict=True):
        ids = processor.short_ids([(suffix_prompts.with_suffix(QUESTION, text), "")], 1)[0]
        assert ids == (*now.head, *proposed[row].tolist(), *now.tail)
    if kind == "word_level":  # every proposal is words: only repeated texts are dropped
        assert len(texts) == len(np.unique(proposed, axis=0))


def test_a_suffix_behind_another_question(make_model):
    """The same ids in the same place, or none."""
    processor, text = make_model().processor, "what the fep can"
    first = suffix_prompts.slots(processor, QUESTION, text, 1)
    for question in ("what is on this sign ?", "share the wug", QUESTION):
        other = suffix_prompts.aligned(processor, question, text, first, 1)
        full = processor.short_ids([(suffix_prompts.with_suffix(question, text), "")], 1)[0]
        assert other.ids == first.ids and other.head + other.ids + other.tail == full
        assert suffix_prompts.slots(processor, question, text, 1) == other
    assert suffix_prompts.aligned(processor, QUESTION, "what the fep", first, 1) is None


def test_a_tokenizer_without_text_is_refused(model):
    with pytest.raises(InputError, match="no printable token"):
        suffix_prompts.vocabulary(model.processor, 4)


def test_each_random_proposal_changes_one_stretch():
    now, allowed = tuple(range(100, 110)), np.arange(200, 400, dtype=np.int32)
    proposed, again = (
        suffix_prompts.random_stretches(
            [], now, allowed, suffix_prompts.SuffixOptions(candidates=50), np.random.default_rng(3)
        )
        for _ in "ab"
    )
    np.testing.assert_array_equal(proposed, again)
    changed = proposed != np.array(now)
    assert proposed.shape == (49, 10) and np.isin(proposed[changed], allowed).all()
    sizes = changed.sum(axis=1)
    assert set(sizes.tolist()) == set(range(1, suffix_prompts.LONGEST + 1))
    for row, size in zip(changed, sizes, strict=True):
        first = int(row.argmax())
        assert row[first : first + size].all()


def test_a_random_proposal_for_a_suffix_of_one_token():
    proposed = suffix_prompts.random_stretches(
        [], (7,), np.array([8], np.int32), suffix_prompts.SuffixOptions(candidates=4), np.random.default_rng(0)
    )
    assert proposed.tolist() == [[8]] * 3
