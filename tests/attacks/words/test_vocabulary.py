"""Candidate words: the tokenizer's own vocabulary, an audit's words, a file."""

import json

import pytest

from vlm_mu_jax.attacks.words import vocabulary
from vlm_mu_jax.errors import InputError


def test_tokenizer_words_are_whole_words_once(tokenizers_by_kind):
    for kind, tokenizer in tokenizers_by_kind.items():
        found = vocabulary.tokenizer_words(tokenizer)
        assert {"share", "what", "describe"} <= set(found), kind
        assert len(found) == len(set(found)) and all(w.isalpha() and w == w.lower() for w in found), kind
        assert not {"pad", "s", "unk"} & set(found), kind


def test_pieces_from_inside_words_are_no_candidates(tokenizers_by_kind):
    for kind in ("byte_level", "metaspace"):
        tokenizer = tokenizers_by_kind[kind]
        for word in vocabulary.tokenizer_words(tokenizer):
            forms = [f" {form}" for form in (word, word.title(), word.upper())]
            assert any(len(tokenizer.encode(form, add_special_tokens=False)) == 1 for form in forms), (kind, word)


def test_candidates_from_files(tmp_path, tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["word_level"]
    (tmp_path / "w.txt").write_text("What\n\nshare\nwhat\n")
    assert vocabulary.candidate_words(str(tmp_path / "w.txt"), tokenizer) == ["what", "share"]
    rows = [{"word": "can", "position": "first"}, {"word": "sign", "position": "last"}]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    assert vocabulary.candidate_words(f"audit:{tmp_path / 'a.json'}", tokenizer) == ["can"]


@pytest.mark.parametrize("content", ["", "[1]", '{"rows": [{"word": 1}]}', "\xff"])
def test_bad_word_files_are_named(tmp_path, content, tokenizers_by_kind):
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="bad.json"):
        vocabulary.candidate_words(f"audit:{path}", tokenizers_by_kind["word_level"])
    with pytest.raises(InputError, match="missing.txt"):
        vocabulary.candidate_words(str(tmp_path / "missing.txt"), tokenizers_by_kind["word_level"])


def test_frequent_words_of_a_language_are_words_in_their_order(tokenizers_by_kind):
    words = vocabulary.candidate_words("english:2000", tokenizers_by_kind["byte_level"])
    assert len(words) == len(set(words)) == 2000 and words[:3] == ["the", "to", "and"]
    assert all(word.isalpha() for word in words) and words.index("what") < words.index("share")
    assert {"a", "i"} == {word for word in words if len(word) == 1} and "ve" not in words
    assert "und" in vocabulary.candidate_words("de:50", None)
    with pytest.raises(InputError, match="there is no list of 'xx'"):
        vocabulary.candidate_words("xx:50", None)
    with pytest.raises(InputError, match="ask for fewer"):
        vocabulary.candidate_words("english:9000000", None)
    assert vocabulary.is_frequency_list("english:20") and not vocabulary.is_frequency_list("pieces")


def test_tokens_are_counted_as_the_word_is_written(tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["byte_level"]
    small, large = (vocabulary.tokens_of(tokenizer, "share", q) for q in ("what is it ?", "What is it ?"))
    assert small == len(tokenizer(" share")["input_ids"]) and large == len(tokenizer(" Share")["input_ids"])
    assert vocabulary.tokens_of(tokenizer, "extraordinarily", "what ?") > 1
