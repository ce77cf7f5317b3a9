"""Words of a question: splitting, and putting another one in their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.data import placing
from vlm_mu_jax.errors import InputError

LETTERS = st.text(alphabet="abcdefgh", min_size=1, max_size=6)


def test_split_words_keeps_inner_marks_and_drops_the_rest():
    assert placing.split_words("<image>\nDon't  share THIS well-known sign?!") == [
        "don't",
        "share",
        "this",
        "well-known",
        "sign",
    ]
    assert placing.split_words("...") == []


@given(word=LETTERS, first=LETTERS, rest=st.text(alphabet="abc ?!", max_size=20))
def test_swap_changes_the_first_word_only(word, first, rest):
    changed = placing.open_with(f"{first} {rest}", word)
    assert changed == f"{word} {rest}"


@given(word=LETTERS, question=st.text(max_size=30))
def test_the_word_comes_first_in_both_modes(word, question):
    for mode in placing.MODES:
        assert placing.split_words(placing.open_with(question, word, mode))[0].startswith(word)


def test_insert_keeps_every_word_and_the_style():
    assert placing.open_with("  Share the steps.", "what", "insert") == "  What Share the steps."
    assert placing.open_with("(share) it", "what", "swap") == "(what) it"
    assert placing.open_with("??", "what", "swap") == "what ??"


def test_unknown_mode_is_bad_input():
    with pytest.raises(InputError, match="mode"):
        placing.open_with("a b", "c", "append")
