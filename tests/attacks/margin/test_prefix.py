"""Candidates are the tokens of the real string, and what they share with the unchanged prompt is really the same."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.conftest import tiny_processor
from tests.attacks.reference import prompt_ids
from vlm_mu_jax.attacks.margin import prefix
from vlm_mu_jax.attacks.margin.prefix import Prompts
from vlm_mu_jax.data.placing import MODES, POSITIONS, place

QUESTIONS = ("Share the steps of the dax.", "(share the wug on this sign ?", "…share", "Explain  the\nzorp", "can the")
WORDS = ("what", "wug", "Ġwhat", "▁what", "(w", "extraordinarily", "é", "share", "two words", "<s>", "\n")
KINDS = ("word_level", "byte_level", "metaspace", "no_split")
IMAGE = np.zeros((8, 8, 3), np.float32)


@pytest.fixture(scope="module")
def processors():
    return {kind: tiny_processor(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", [IMAGE, None], ids=["image", "text"])
def test_blocks_hold_the_tokens_of_the_real_strings(processors, kind, image):
    processor, size = processors[kind], 4
    for question, position, mode in itertools.product(QUESTIONS, POSITIONS, MODES):
        placed = [place(question, word, position, mode) for word in WORDS]
        prompts = prefix.tokenise(processor, question, [] if image is None else [image], placed)
        start, shares = prefix.shared_start(prompts, np.arange(len(WORDS)))
        seen = {}
        for at, some in ((start, np.flatnonzero(shares)), (None, np.flatnonzero(~shares))):
            for block in prefix.blocks(prompts, some, at, size) if len(some) else ():
                for number, ids, n in zip(block.index_C, block.tokens_CT, block.lengths_C, strict=True):
                    if number >= 0:
                        seen[number] = (*prompts.original_ids[: at or 0], *ids[:n].tolist())
        assert seen == {
            i: tuple(prompt_ids(processor, question, word, position, mode, int(image is not None)))
            for i, word in enumerate(WORDS)
        }


def test_pieces_do_merge_across_the_place_of_the_word(processors):
    """Or the test above would be about nothing."""
    placed = [place("can the", word, "question_end", "insert") for word in WORDS]
    prompts = prefix.tokenise(processors["no_split"], "can the", [], placed)
    _, shares = prefix.shared_start(prompts, np.arange(len(WORDS)))
    assert 0 < shares.sum() < len(WORDS)


@given(data=st.data(), head=st.integers(0, 5), size=st.sampled_from([1, 3, 64]), multiple=st.sampled_from([1, 8]))
def test_every_candidate_is_in_one_block(data, head, size, multiple):
    tails = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=20))
    prompts = Prompts(tuple(range(head)), tuple(tails), tuple(data.draw(st.lists(st.integers(0, 2), min_size=1))), head)
    everyone = np.arange(len(tails))
    start, shares = prefix.shared_start(prompts, everyone)
    found = []
    for at, some in ((start, everyone[shares]), (None, everyone[~shares])):
        for block in prefix.blocks(prompts, some, at, size, multiple):
            assert len(block.index_C) % multiple == 0 and block.lengths_C.min() >= 1
            assert block.lengths_C.max() <= block.tokens_CT.shape[1]
            found += block.index_C[block.index_C >= 0].tolist()
    assert sorted(found) == everyone.tolist()
    assert shares.sum() * 2 >= len(tails) or not shares.any()


def test_a_few_that_share_less_do_not_shorten_the_others():
    long = tuple(range(10, 20))
    tails = (*(long[:6] + (i, 99) for i in range(8)), (7, 7))
    start, shares = prefix.shared_start(Prompts((1, 2, 3), tails, long, 3), np.arange(9))
    assert start == 3 + 6 and shares.tolist() == [True] * 8 + [False]


def test_nothing_is_shared_before_the_end_of_the_image():
    prompts = Prompts((), ((5, 9, 9, 1), (6, 9, 9, 1)), (4, 9, 9, 1), image_end=3)
    start, shares = prefix.shared_start(prompts, np.arange(2))
    assert start == 0 and not shares.any()
