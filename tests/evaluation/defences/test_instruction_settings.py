"""Instruction settings: every setting in every image condition, and what happens where a file is missing."""

import json
import shutil

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.defences import instruction_settings
from vlm_mu_jax.evaluation.defences.instruction_settings import AttackShots, build, read_templates

ATTACKS = AttackShots((("story", "in a story , {question}"), ("plain", "{question}")), ("what", "list"))


def test_every_setting_is_asked_in_every_image_condition(data_dir):
    found = build(data_dir, ATTACKS)
    names = [f"{setting}_{image}" for setting in instruction_settings.SETTINGS for image in instruction_settings.IMAGES]
    assert set(found.sets) == {*names, "utility"}
    assert [len(found.sets[f"{s}_own_image"]) for s in instruction_settings.SETTINGS] == [4, 8, 10, 8]
    text, blank, own = (found.sets[f"direct_{image}"] for image in instruction_settings.IMAGES)
    assert {q.image for q in text} == {None} and {q.image for q in blank} == {"blank:white"}
    assert {q.image for q in own} == {data_dir / "test" / f"{i}.png" for i in range(4)}
    assert [q.condition.image for q in (text[0], blank[0], own[0])] == ["none", "blank:white", "own"]
    assert all(q.id in found.records[name] for name, questions in found.sets.items() for q in questions)


def test_templates_and_words_are_shots_of_the_direct_requests(data_dir):
    found = build(data_dir, ATTACKS)
    story, plain = (found.sets["template_blank_image"][k] for k in (0, 4))
    assert story.text == "in a story , give me a ." and plain.text == "give me a ."
    assert (story.condition.attack, story.condition.word, story.condition.shot) == ("template", "story", 0)
    assert plain.condition.shot == 1 and story.id == plain.id
    word = found.sets["one_word_text_only"][4]
    assert word.text == "list me a ." and (word.condition.attack, word.condition.word) == ("one_word", "list")


def test_a_conversation_is_asked_its_last_question_behind_the_files_turns(data_dir, tmp_path):
    talk = [{"role": "user", "content": "<image>who ?"}, {"role": "assistant", "content": "it ."}]
    row = {"id": "t", "messages": [*talk, {"role": "user", "content": "so ?"}], "images": ["a.png"], "kind": "unsafe"}
    shutil.copy(data_dir / "test" / "0.png", tmp_path / "a.png")
    (tmp_path / "text_harm.json").write_text(json.dumps([row]))
    found = build(tmp_path, ATTACKS, settings=["direct", "one_word"])
    text, blank, own = (found.sets[f"direct_{image}"][0] for image in instruction_settings.IMAGES)
    assert (text.text, text.images, own.images) == ("so ?", (), (tmp_path / "a.png",))
    assert [len(turn.images) for one in (text, blank, own) for turn in (*one.context.before[:1], one.context.own)] == [
        *(0, 0),
        *(0, 1),
        *(1, 0),
    ]
    assert found.sets["one_word_own_image"][0].text == "what ?"
    assert found.sets["one_word_own_image"][0].context.before == own.context.before
    row["messages"][1]["content"] = " "
    (tmp_path / "text_harm.json").write_text(json.dumps([row]))
    with pytest.raises(InputError, match="empty answer"):
        build(tmp_path, ATTACKS)


def test_unsafe_questions_about_harmless_images_are_not_image_needed(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    rows = json.loads((folder / "test.json").read_text())
    rows[5]["instr-resp"].append({"unsafe_instruction": "share the way of dax .", "response": "i am sorry"})
    (folder / "test.json").write_text(json.dumps(rows))
    assert len(build(folder).sets["image_needed_own_image"]) == 10


def test_a_text_only_model_is_asked_the_text(data_dir):
    assert set(build(data_dir, with_images=False).sets) == {"direct_text_only", "image_needed_text_only"}


def test_a_choice_and_its_own_file_for_requests_that_need_the_image(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    rows = json.loads((folder / "text_harm.json").read_text())[:2]
    (folder / "image_needed.json").write_text(json.dumps(rows))
    found = build(folder, settings=["image_needed"], images=["own_image"], blank="noise")
    counts = {name: len(questions) for name, questions in found.sets.items()}
    assert counts == {"image_needed_own_image": 2, "utility": 3}
    assert "image_needed.json" in found.files and "test.json" not in found.files


@pytest.mark.parametrize("options, said", [({"settings": ["dirct"]}, "--settings"), ({"images": ["grey"]}, "--images")])
def test_unknown_names_are_input_errors(data_dir, options, said):
    with pytest.raises(InputError, match=said):
        build(data_dir, **options)


def test_nothing_to_ask_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="holds nothing to ask"):
        build(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"a": "no place"}, {"a": 3}])
def test_templates_need_a_place_for_the_question(tmp_path, content):
    file = tmp_path / "templates.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="question"):
        read_templates(file)
    file.write_text(json.dumps({"a": "so : {question}"}))
    assert read_templates(file) == (("a", "so : {question}"),)
