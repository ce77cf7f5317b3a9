"""Prefill: beginnings that end where a token ends, and a control of as many words."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vlm_mu_jax.attacks.methods import prefill
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

ANSWERS = ["take it , then turn it", "take it , then stop", "i see a red sign", "no"]


def test_the_most_frequent_beginnings_are_found():
    assert prefill.found(ANSWERS, 2) == ["take it ,", "i see a"]
    assert prefill.found(ANSWERS, 1, words=2) == ["take it"]
    with pytest.raises(InputError, match="--prefills=FILE"):
        prefill.found(["no"], 1)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_the_beginning_ends_where_a_token_ends(make_model, kind):
    """The answer's own tokens, as a server would make them, begin with those of the prompt and its beginning."""
    processor = make_model(kind=kind).processor
    text = prefill.at_boundary(processor, "what is this ?", "take it ,  ")
    assert text == "take it ,"
    begun = processor.example("what is this ?", text, images=0, ended=False).ids
    whole = processor.tokenizer(processor.prompt_text("what is this ?", 0, "take it , then turn it"))["input_ids"]
    assert whole[: len(begun)] == list(begun)
    spaced = processor.tokenizer(processor.prompt_text("what is this ?", 0, "take it , "))["input_ids"]
    assert whole[: len(spaced)] != spaced  # what a space at the end would have done


class FourLetters:
    """A tokenizer whose pieces are four letters long, whatever they are: most texts end inside one."""

    def example(self, question, answer, images, ended):
        text = f"{question} {answer}"
        return SimpleNamespace(ids=tuple(text[i : i + 4] for i in range(0, len(text), 4)))


def test_half_a_piece_is_refused():
    assert prefill.at_boundary(FourLetters(), "", "abc ") == "abc"
    for text in ("ab", "abcd", "abc de", ""):
        with pytest.raises(InputError, match="does not end where a token ends"):
            prefill.at_boundary(FourLetters(), "", text)


def test_the_control_pays_the_same_price():
    records = Records((Record("a", None, "what ?", "", "unsafe"),), Path("."), Path("test.json"), "0" * 64)
    attempts, control = prefill.attempts(records, ["take it ,", "i see"], 0, ANSWERS)
    assert [one.answer_start for one in attempts["a"]] == ["take it ,", "i see"]
    assert [len(one.answer_start.split()) for one in control["a"]] == [3, 2]
    assert {w for one in control["a"] for w in one.answer_start.split()} <= {w for a in ANSWERS for w in a.split()}
    assert control == prefill.attempts(records, ["take it ,", "i see"], 0, ANSWERS)[1]
