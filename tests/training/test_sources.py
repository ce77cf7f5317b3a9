"""Conversations as training rows: what carries the loss, what is cut and counted, and files of pairs."""

import json
from pathlib import Path

import pytest

from tests.data.templates import LLAVA_HF
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.chat_template import JinjaTemplate
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.records import ImagePart, Record, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.miniature import checkpoint, language, world
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.sources import read_sources, tokenised

WORDS = ("what is this", "it is a sign .", "share the steps", "that would be a sign .", "what is it", "a ring .")


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    tokenizer = language.train_tokenizer(language.all_text(world.make_world(0)))
    checkpoint.write_companions(folder, tokenizer)
    return Processor.from_folder(folder, from_hf(checkpoint.hf_config(tokenizer)), "vicuna_v1")


def talk(*texts, images=(), id="c", **fields):
    turns = [Turn(("user", "assistant")[i % 2], (text,)) for i, text in enumerate(texts)]
    for at in images:
        turns[at] = Turn("user", (ImagePart("a.png"), *turns[at].parts))
    return Record(id, turns=turns, **fields)


def spoken(processor, row, on=True):
    return processor.tokenizer.decode([i for i, m in zip(row.ids, row.mask, strict=True) if m == on])


def test_every_answer_carries_the_loss_or_the_last_alone(processor):
    rows, counts = tokenised([talk(*WORDS)], {}, processor, 512)
    assert spoken(processor, rows[0]).replace(" ", "") == "itisasign.</s>thatwouldbeasign.</s>aring.</s>"
    assert counts == dict.fromkeys(counts, 0) | {"rows": 1}
    rows, _ = tokenised([talk(*WORDS)], {}, processor, 512, loss="last")
    assert spoken(processor, rows[0]).replace(" ", "") == "aring.</s>"


def test_images_stand_in_their_turns(processor):
    rows, _ = tokenised([talk(*WORDS, images=(0, 4), source="x")], {"x": Path("root")}, processor, 512)
    assert rows[0].images == ("root/a.png", "root/a.png")
    P = processor.cfg.vision.P
    assert rows[0].ids.count(processor.cfg.image_token_id) == 2 * P
    first, second = (
        i for i, t in enumerate(rows[0].ids[1:], 1) if t == processor.cfg.image_token_id != rows[0].ids[i - 1]
    )
    assert any(rows[0].mask[first:second])  # an answer stands between them


def test_turns_are_cut_from_the_end_then_the_answer(processor):
    whole = len(tokenised([talk(*WORDS)], {}, processor, 512)[0][0].ids)
    rows, counts = tokenised([talk(*WORDS, images=(4,), source="x")], {"x": Path("root")}, processor, whole - 1)
    assert counts["turns_cut"] == 1 and counts["answers_cut"] == 0 and rows[0].images == ()
    assert rows[0].ids == tokenised([talk(*WORDS[:4])], {}, processor, 512)[0][0].ids
    pair = tokenised([talk(*WORDS[:2])], {}, processor, 512)[0][0].ids
    rows, counts = tokenised([talk(*WORDS)], {}, processor, len(pair) - 2)
    assert (counts["turns_cut"], counts["answers_cut"]) == (1, 1) and rows[0].ids == pair[:-2]
    rows, counts = tokenised([talk(*WORDS)], {}, processor, 5)
    assert not rows and counts["prompts_too_long"] == 1


def test_a_row_for_its_last_answer_alone_never_loses_that_answer(processor):
    """What is forgotten is the last answer; a row cut before it would forget another one."""
    whole = tokenised([talk(*WORDS)], {}, processor, 512, loss="last")[0][0].ids
    rows, counts = tokenised([talk(*WORDS)], {}, processor, len(whole) - 1, loss="last")
    assert rows[0].ids == whole[:-1] and (counts["turns_cut"], counts["answers_cut"]) == (0, 1)
    rows, counts = tokenised([talk(*WORDS)], {}, processor, len(whole) // 2, loss="last")
    assert not rows and counts["prompts_too_long"] == 1


def test_only_the_last_answer_of_a_conversation_is_forgotten(processor, tmp_path):
    first = [{"role": "user", "content": WORDS[0]}, {"role": "assistant", "content": WORDS[3]}]
    pair = {"prompt": [*first, {"role": "user", "content": WORDS[0]}], "chosen": WORDS[1], "rejected": WORDS[3]}
    write(tmp_path / "pairs.jsonl", [pair] * 2)
    write(tmp_path / "keep.jsonl", [GOOD] * 2)
    config = settings(tmp_path, "npo", safety="pairs.jsonl", general="keep.jsonl")
    found = read_sources(config, make_objective("npo"), processor)
    assert spoken(processor, found.streams["forget"].rows[0]).replace(" ", "") == "thatwouldbeasign.</s>"


def test_an_open_question_is_cut_off_and_counted(processor):
    rows, counts = tokenised([talk(*WORDS[:3]), talk(*WORDS[:1])], {}, processor, 512)
    assert (counts["rows"], counts["open_questions_cut"], counts["without_answer"]) == (1, 1, 1)
    assert rows[0].ids == tokenised([talk(*WORDS[:2])], {}, processor, 512)[0][0].ids


def test_a_system_text_is_the_rows_own(processor):
    row = tokenised([talk(*WORDS[:2], system="share it .")], {}, processor, 512)[0][0]
    assert spoken(processor, row, on=False).replace(" ", "") == "<s>shareit.USER:whatisthisASSISTANT:"
    own = processor.with_template(JinjaTemplate("{{ raise_exception('no') }}" + LLAVA_HF))
    with pytest.raises(InputError, match="record 'c': the chat template refuses"):
        tokenised([talk(*WORDS)], {}, own, 512)


def test_a_query_is_one_question(processor):
    with pytest.raises(InputError, match="forget_target=query takes one question"):
        tokenised([talk(*WORDS)], {}, processor, 512, "query")


def settings(folder, objective="sft", **data):
    config = settings_lib.defaults(objective)
    config.batch_size = 2
    config.data.root = str(folder)
    for name, value in data.items():
        config.data[name] = value
    return config.to_dict()


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


GOOD = {"messages": [{"role": "user", "content": WORDS[0]}, {"role": "assistant", "content": WORDS[1]}]}


def test_files_of_one_shape_in_two_folders_keep_their_images(processor, tmp_path):
    for part in ("a", "b"):
        write(tmp_path / part / "x.jsonl", [GOOD | {"images": [f"{part}.png"]}])
        (tmp_path / part / f"{part}.png").write_bytes(b"")
    found = read_sources(settings(tmp_path, safety="a/x.jsonl", general="b/x.jsonl"), make_objective("sft"), processor)
    images = sorted(row.images[0] for row in found.streams["train"].rows)
    assert images == [str(tmp_path / "a/a.png"), str(tmp_path / "b/b.png")]
    assert found.manifest["template"] == processor.template
    assert found.manifest["read"]["safety"]["notes"] and found.manifest["read"]["general"]["skipped"] == {}


def test_bad_rows_stop_or_are_counted_by_reason(processor, tmp_path):
    bad = {"messages": [{"role": "tool", "content": "x"}]}
    write(tmp_path / "x.jsonl", [GOOD, bad, GOOD, bad])
    with pytest.raises(InputError, match="2 of 4 rows are bad"):
        read_sources(settings(tmp_path, general="x.jsonl"), make_objective("sft"), processor)
    found = read_sources(settings(tmp_path, general="x.jsonl", on_bad="skip"), make_objective("sft"), processor)
    read = found.manifest["read"]["general"]
    assert list(read["skipped"].values()) == [2] and read["first_skipped"][0].startswith(
        "row 2: message 1 is by 'tool'"
    )
    with pytest.raises(InputError, match="config.data.loss: 'first'"):
        read_sources(settings(tmp_path, general="x.jsonl", loss="first"), make_objective("sft"), processor)


def test_preference_pairs_are_dpos_two_streams(processor, tmp_path):
    write(tmp_path / "pairs.jsonl", [{"prompt": WORDS[0], "chosen": WORDS[1], "rejected": WORDS[3]}] * 2)
    write(tmp_path / "keep.jsonl", [GOOD] * 2)
    config = settings(tmp_path, "dpo", safety="pairs.jsonl", general="keep.jsonl")
    found = read_sources(config, make_objective("dpo"), processor)
    said = {name: spoken(processor, stream.rows[0]).replace(" ", "") for name, stream in found.streams.items()}
    assert said["forget"] == "thatwouldbeasign.</s>" and said["preferred"] == said["retain"] == "itisasign.</s>"
    assert found.manifest["pairs"]["records"] == 2


def test_rebased_records_name_the_same_images(tmp_path):
    write(tmp_path / "sub/x.jsonl", [GOOD | {"images": ["a.png"]}])
    (tmp_path / "sub/a.png").write_bytes(b"")
    records = readers.read(tmp_path / "sub/x.jsonl")
    moved = records.rebased(tmp_path)
    assert moved[0].image == "sub/a.png" and moved.image_path(moved[0]) == records.image_path(records[0])
    assert records.rebased(tmp_path / "sub") is records
