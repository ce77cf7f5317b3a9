"""Shards of an evaluation: joined they are the file of one run, and what is missing is named."""

import json

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import shards
from vlm_mu_jax.evaluation.answering import Making
from vlm_mu_jax.evaluation.answers.share import Share, dealt
from vlm_mu_jax.evaluation.evaluate import EvaluateOptions, evaluate, resolve_suite
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.files.json_file import read_json

OPTIONS = EvaluateOptions(batch_size=3, max_new_tokens=4)


@pytest.fixture
def suite(data_dir):
    return resolve_suite(data_dir, OPTIONS, data_dir / "attack.json")


def contents(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "answers").glob("*.jsonl")}


def test_joined_shards_are_one_run_byte_for_byte(model, suite, tmp_path, quick):
    one, many = tmp_path / "one", tmp_path / "many"
    evaluate(model, suite, OPTIONS, judge="oracle", workdir=one)
    for index in (2, 0, 1):
        shards.answer_share(model, suite, Making(OPTIONS, "oracle"), many, Share(index, 3))
    shards.join(suite, many)
    evaluate(None, suite, OPTIONS, judge="oracle", workdir=many)
    assert contents(many) == contents(one) and len(contents(one)) > 5
    assert (many / "results.json").read_bytes() == (one / "results.json").read_bytes()
    assert not (many / "shards").exists()


def test_missing_answers_are_named_by_their_shards(model, suite, tmp_path, quick):
    for index in (0, 2):
        shards.answer_share(model, suite, Making(OPTIONS), tmp_path, Share(index, 3))
    file = tmp_path / "shards/2-of-3/answers/unsafe_before.jsonl"
    file.write_bytes(file.read_bytes()[:20])  # killed in the middle of a line
    count = sum(map(len, shards.part(suite, Share(1, 3)).sets.values()))
    with pytest.raises(InputError, match=rf"run again --shard=1/3 \({count} of {count} answers\), 2/3 \(\d+ of"):
        shards.join(suite, tmp_path)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["0-of-3", "2-of-3"]


def test_another_number_of_shards_is_refused(model, suite, tmp_path, quick):
    shards.answer_share(model, suite, Making(OPTIONS), tmp_path, Share(0, 3))
    with pytest.raises(InputError, match=r"holds shares of 3; go on with --shard=K/3, or --join them first"):
        shards.answer_share(model, suite, Making(OPTIONS), tmp_path, Share(0, 2))


def test_shards_of_another_model_do_not_join(model, suite, tmp_path, quick):
    for index in (0, 1):
        shards.answer_share(model, suite, Making(OPTIONS), tmp_path, Share(index, 2))
    config = tmp_path / "shards/1-of-2/config.json"
    config.write_text(json.dumps(read_json(config) | {"weights_sha256": "other"}))
    with pytest.raises(InputError, match="its answers were made with another model"):
        shards.join(suite, tmp_path)


def test_a_job_of_one_process_goes_on_with_what_shards_have(model, suite, tmp_path, quick):
    shards.answer_share(model, suite, Making(OPTIONS), tmp_path, Share(1, 4))
    quick.clear()
    shards.answer_together(model, suite, Making(OPTIONS), tmp_path)
    rows = sum(shape[0] for shape, _ in quick)
    evaluate(model, suite, OPTIONS, judge="oracle", workdir=tmp_path / "one")
    assert rows < sum(shape[0] for shape, _ in quick) - rows  # fewer than all
    quick.clear()
    evaluate(model, suite, OPTIONS, judge="oracle", workdir=tmp_path)
    assert contents(tmp_path) == contents(tmp_path / "one") and not quick


def test_every_question_is_in_one_share_and_those_of_an_image_stay_together():
    questions = [Question(f"q{i}", "what ?", None if i % 3 else f"{i % 4}.png") for i in range(40)]
    questions += [Question("talk", "and ?", None, own_history=True)] * 3
    parts = [dealt(questions, Share(index, 4)) for index in range(4)]
    assert sorted(q.id for some in parts for q in some) == sorted(q.id for q in questions)
    homes = [
        {index for index in range(4) if any(q.image == image for q in parts[index])} for image in ("0.png", "1.png")
    ]
    assert all(len(home) == 1 for home in homes)
    assert sorted(sum(q.id == "talk" for q in some) for some in parts) == [0, 0, 0, 3]
    assert max(map(len, parts)) - min(map(len, parts)) < 10


@pytest.mark.parametrize("text", ["3", "4/4", "-1/4", "0/0", "a/b"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(InputError, match="shards are counted from 0"):
        Share.parse(text)
