"""One answer as it comes: what is printed piece by piece is the whole answer."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.answers.one_answer import LONG, SamplingOptions, answer, pieces, stream_answer
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.model import generate as generate_lib


def test_the_last_is_the_answer_and_each_begins_with_the_one_before(model, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_lib, "CHUNK", 3)
    image = data_dir / "test" / "0.png"
    some = list(stream_answer(model, "what ?", [image], SamplingOptions(max_new_tokens=8)))
    assert [len(one.token_ids) for one in some] == [3, 6, 8]
    for shorter, longer in zip(some, some[1:], strict=False):
        count = len(shorter.token_ids)
        assert longer.token_ids[:count] == shorter.token_ids
        assert longer.logprobs[:count] == shorter.logprobs
    (whole,) = answer_questions(model, [Question("q", "what ?", image)], tmp_path / "a.jsonl", AnswerOptions(1, 8))
    assert some[-1].text == whole.answer == "".join(pieces(one.text for one in some))
    assert answer(model, "what ?", [image], max_new_tokens=8) == some[-1]


def test_a_prompt_that_is_too_long(model):
    with pytest.raises(InputError, match="positions"):
        answer(model, "no " * 300, max_new_tokens=4)


def test_words_and_letters_are_printed_when_they_are_complete():
    assert list(pieces(["a wo", "a word an", "a word and \ufffd", "a word and é."])) == ["a", " word", " and", " é."]
    assert list(pieces(["one", "one"])) == ["one"] and list(pieces([])) == [""]
    long = "x" * (LONG + 1)  # a script without spaces
    assert list(pieces([long, long + "\ufffd", long + "éy"])) == [long, "éy", ""]


def test_a_text_that_changes_is_given_again():
    assert list(pieces(["a b c", "d e f"])) == ["a b", "\nd e f"]
