"""Words: splitting, putting one at the start, and the tokenizer's own vocabulary."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.attacks import words
from vlm_mu_jax.errors import InputError

LETTERS = st.text(alphabet="abcdefgh", min_size=1, max_size=6)


def test_split_words_keeps_inner_marks_and_drops_the_rest():
    assert words.split_words("<image>\nDon't  share THIS well-known sign?!") == [
        "don't",
        "share",
        "this",
        "well-known",
        "sign",
    ]
    assert words.split_words("...") == []


@given(word=LETTERS, first=LETTERS, rest=st.text(alphabet="abc ?!", max_size=20))
def test_swap_changes_the_first_word_only(word, first, rest):
    changed = words.open_with(f"{first} {rest}", word)
    assert changed == f"{word} {rest}"


@given(word=LETTERS, question=st.text(max_size=30))
def test_the_word_comes_first_in_both_modes(word, question):
    for mode in words.MODES:
        assert words.split_words(words.open_with(question, word, mode))[0].startswith(word)


def test_insert_keeps_every_word_and_the_style():
    assert words.open_with("  Share the steps.", "what", "insert") == "  What Share the steps."
    assert words.open_with("(share) it", "what", "swap") == "(what) it"
    assert words.open_with("??", "what", "swap") == "what ??"


def test_unknown_mode_is_bad_input():
    with pytest.raises(InputError, match="mode"):
        words.open_with("a b", "c", "append")


def test_tokenizer_words_are_whole_words_once(tokenizers_by_kind):
    for kind, tokenizer in tokenizers_by_kind.items():
        found = words.tokenizer_words(tokenizer)
        assert {"share", "what", "describe"} <= set(found), kind
        assert len(found) == len(set(found)) and all(w.isalpha() and w == w.lower() for w in found), kind
        assert not {"pad", "s", "unk"} & set(found), kind


def test_pieces_from_inside_words_are_no_candidates(tokenizers_by_kind):
    for kind in ("byte_level", "metaspace"):
        tokenizer = tokenizers_by_kind[kind]
        for word in words.tokenizer_words(tokenizer):
            forms = [f" {form}" for form in (word, word.title(), word.upper())]
            assert any(len(tokenizer.encode(form, add_special_tokens=False)) == 1 for form in forms), (kind, word)


def test_candidates_from_files(tmp_path, tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["word_level"]
    (tmp_path / "w.txt").write_text("What\n\nshare\nwhat\n")
    assert words.candidate_words(str(tmp_path / "w.txt"), tokenizer) == ["what", "share"]
    rows = [{"word": "can", "position": "first"}, {"word": "sign", "position": "last"}]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    assert words.candidate_words(f"audit:{tmp_path / 'a.json'}", tokenizer) == ["can"]


@pytest.mark.parametrize("content", ["", "[1]", '{"rows": [{"word": 1}]}', "\xff"])
def test_bad_word_files_are_named(tmp_path, content, tokenizers_by_kind):
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="bad.json"):
        words.candidate_words(f"audit:{path}", tokenizers_by_kind["word_level"])
    with pytest.raises(InputError, match="missing.txt"):
        words.candidate_words(str(tmp_path / "missing.txt"), tokenizers_by_kind["word_level"])
