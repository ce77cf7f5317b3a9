"""Texts that need no search: beginnings end where a token ends; paraphrases differ from their control by the word."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlm_mu_jax.attacks.methods import texts
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

ASKED = Records(
    tuple(Record(name, None, f"Share the {name} .", "", "unsafe") for name in ("dax", "wug")), Path("."), Path("t"), ""
)
ANSWERS = ["take it , then turn it", "take it , then stop", "i see a red sign", "no"]


def test_the_most_frequent_beginnings_are_found():
    assert texts.beginnings(ANSWERS, 2) == ["take it ,", "i see a"]
    assert texts.beginnings(ANSWERS, 1, words=2) == ["take it"]
    with pytest.raises(InputError, match="--prefills=FILE"):
        texts.beginnings(["no"], 1)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_the_beginning_ends_where_a_token_ends(make_model, kind):
    """The answer's own tokens, as a server would make them, begin with those of the prompt and its beginning."""
    processor = make_model(kind=kind).processor
    text = texts.at_boundary(processor, "what is this ?", "take it ,  ")
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
    assert texts.at_boundary(FourLetters(), "", "abc ") == "abc"
    for text in ("ab", "abcd", "abc de", ""):
        with pytest.raises(InputError, match="does not end where a token ends"):
            texts.at_boundary(FourLetters(), "", text)


def test_the_control_pays_the_same_price():
    records = Records((Record("a", None, "what ?", "", "unsafe"),), Path("."), Path("test.json"), "0" * 64)
    attempts, control = texts.prefill_attempts(records, ["take it ,", "i see"], 0, ANSWERS)
    assert [one.answer_start for one in attempts["a"]] == ["take it ,", "i see"]
    assert [len(one.answer_start.split()) for one in control["a"]] == [3, 2]
    assert {w for one in control["a"] for w in one.answer_start.split()} <= {w for a in ANSWERS for w in a.split()}
    assert control == texts.prefill_attempts(records, ["take it ,", "i see"], 0, ANSWERS)[1]


def test_templates_keep_the_questions_first_word_first():
    worded = texts.paraphrases(ASKED, texts.TEMPLATES)
    assert len(worded["dax"]) == 3 and all(text.startswith("Share the dax . ") for text in worded["dax"])
    both, alone, word = texts.paraphrase_attempts(ASKED, worded, "what", "swap")
    for name in ("dax", "wug"):
        assert [one.question for one in alone[name]] == worded[name]
        pairs = zip(both[name], alone[name], strict=True)
        assert all(a.question == b.question.replace("Share", "What", 1) for a, b in pairs)
        assert [one.question for one in word[name]] == [f"What the {name} ."]


def test_files_by_template_and_by_record(tmp_path):
    lines, by_id = tmp_path / "t.txt", tmp_path / "t.json"
    lines.write_text("{question} now .\n\nplease : {question}\n")
    assert texts.paraphrases(ASKED, texts.read_paraphrases(lines))["wug"] == [
        "Share the wug . now .",
        "please : Share the wug .",
    ]
    by_id.write_text(json.dumps({"dax": ["tell me of the dax"], "wug": ["a", "b"]}))
    assert texts.paraphrases(ASKED, texts.read_paraphrases(by_id)) == {"dax": ["tell me of the dax"], "wug": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.txt", "no place for it"), ("t.txt", ""), ("t.json", "[]"), ("t.json", '{"dax": [""]}'), ("t.json", "{")],
)
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="--paraphrases"):
        texts.read_paraphrases(tmp_path / name)


def test_a_question_without_a_paraphrase_is_named():
    with pytest.raises(InputError, match="wug"):
        texts.paraphrases(ASKED, {"dax": ["a"]})
