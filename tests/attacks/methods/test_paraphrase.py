"""Paraphrases with and without the word: the same texts, but for the word."""

import json
from pathlib import Path

import pytest

from vlm_mu_jax.attacks.methods import paraphrase
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

ASKED = Records(
    tuple(Record(name, None, f"Share the {name} .", "", "unsafe") for name in ("dax", "wug")), Path("."), Path("t"), ""
)


def test_templates_keep_the_questions_first_word_first():
    texts = paraphrase.paraphrases(ASKED, paraphrase.TEMPLATES)
    assert len(texts["dax"]) == 3 and all(text.startswith("Share the dax . ") for text in texts["dax"])
    both, alone, word = paraphrase.attempts(ASKED, texts, "what", "swap")
    for name in ("dax", "wug"):
        assert [one.question for one in alone[name]] == texts[name]
        pairs = zip(both[name], alone[name], strict=True)
        assert all(a.question == b.question.replace("Share", "What", 1) for a, b in pairs)
        assert [one.question for one in word[name]] == [f"What the {name} ."]


def test_files_by_template_and_by_record(tmp_path):
    lines, by_id = tmp_path / "t.txt", tmp_path / "t.json"
    lines.write_text("{question} now .\n\nplease : {question}\n")
    assert paraphrase.paraphrases(ASKED, paraphrase.read(lines))["wug"] == [
        "Share the wug . now .",
        "please : Share the wug .",
    ]
    by_id.write_text(json.dumps({"dax": ["tell me of the dax"], "wug": ["a", "b"]}))
    assert paraphrase.paraphrases(ASKED, paraphrase.read(by_id)) == {"dax": ["tell me of the dax"], "wug": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.txt", "no place for it"), ("t.txt", ""), ("t.json", "[]"), ("t.json", '{"dax": [""]}'), ("t.json", "{")],
)
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="--paraphrases"):
        paraphrase.read(tmp_path / name)


def test_a_question_without_a_paraphrase_is_named():
    with pytest.raises(InputError, match="wug"):
        paraphrase.paraphrases(ASKED, {"dax": ["a"]})
