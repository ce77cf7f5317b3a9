"""Asking many questions: the same answers as one by one, few shapes, nothing asked twice, judging never asks."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file, asking
from vlm_mu_jax.evaluation.answers.answers_file import Condition
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.judges import KeywordJudge
from vlm_mu_jax.evaluation.judging import judge_answers
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.evaluation.results import rates
from vlm_mu_jax.model import generate as generate_lib


def questions(data_dir) -> list[Question]:
    """Six questions of different length: with an image, with a blank one, and with text only."""
    texts = [
        "what ?",
        "describe this at some length , with all that belongs to it .",
        "no",
        "why this ?",
        "share it .",
        "so",
    ]
    images = [
        data_dir / "test" / "0.png",
        data_dir / "test" / "1.png",
        None,
        "blank:white",
        data_dir / "test" / "2.png",
        None,
    ]
    return [Question(f"q{i}", text, image) for i, (text, image) in enumerate(zip(texts, images, strict=True))]


def test_batched_answers_equal_one_by_one_and_keep_order(model, data_dir, tmp_path):
    items = [questions(data_dir)[i] for i in (1, 0, 3, 5)]  # images, a blank one, text only; long and short
    together = answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(3, 6))
    alone = [answer_questions(model, [q], tmp_path / f"{q.id}.jsonl", AnswerOptions(1, 6))[0] for q in items]
    assert together == alone
    assert [a.id for a in together] == [q.id for q in items]
    assert len({a.answer for a in together}) > 1 and all(0 < a.tokens <= 6 for a in together)


def test_questions_about_one_image_share_their_beginning(model, data_dir, tmp_path, monkeypatch):
    """Groups of three and two in one program, the lone question whole; all as if asked one by one."""
    image = [data_dir / "test" / f"{i}.png" for i in range(3)]
    asked = [("what ?", 0), ("why this , and why that ?", 0), ("so", 1), ("share it .", 0), ("what ?", 1), ("no", 2)]
    items = [Question(f"q{i}", text, image[of]) for i, (text, of) in enumerate(asked)]
    want = [answer_questions(model, [q], tmp_path / f"{q.id}.jsonl", AnswerOptions(1, 6))[0] for q in items]
    shapes, real = [], generate_lib.generate

    def counting(params, batch, cfg, *, prefix=None, **options):
        shapes.append((batch.tokens_BT.shape[0], None if prefix is None else prefix.tokens_BT.shape[0]))
        return real(params, batch, cfg, prefix=prefix, **options)

    monkeypatch.setattr(generate_lib, "generate", counting)
    assert answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(5, 6)) == want
    assert sorted(shapes) == [(3, 1), (3, 1), (5, None)]
    assert len({answer.answer for answer in want}) > 2


def test_steering_that_is_made_per_batch_gets_its_rows_and_what_fills_it_up(model, data_dir, tmp_path, quick):
    asked = []

    def steer(texts, images, contexts):
        assert contexts == [None] * len(texts)
        asked.append((texts, None if images is None else [[pixels.shape for pixels in row] for row in images]))

    items = [Question("a", "what ?", data_dir / "test" / "0.png"), Question("b", "no", None), Question("c", "so", None)]
    answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(2, 4, steer=steer))
    assert asked == [(["no", "so"], None), (["what ?", "what ?"], [[(8, 8, 3)]] * 2)]


def test_images_tell_answers_apart(model, data_dir, tmp_path, quick):
    items = [Question("q", "what ?", data_dir / "test" / f"{i}.png", Condition(word=str(i))) for i in range(2)]
    first, second = answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(2, 4))
    assert first.image_id != second.image_id and first.prompt_sha == second.prompt_sha


def test_a_killed_run_continues_where_it_stopped(model, data_dir, tmp_path, monkeypatch, quick):
    class Killed(BaseException):
        pass

    items, path, asked = questions(data_dir), tmp_path / "a.jsonl", []
    real = asking._generate

    def counting(model, rows, *rest):
        if len(asked) == 2:
            raise Killed
        asked.append([row.question.id for row in rows])
        return real(model, rows, *rest)

    monkeypatch.setattr(asking, "_generate", counting)
    with pytest.raises(Killed):
        answer_questions(model, items, path, AnswerOptions(2, 4))
    done = {i for batch in asked for i in batch}
    with path.open("ab") as file:
        file.write(b'{"id": "torn')
    asked.clear()
    monkeypatch.setattr(
        asking,
        "_generate",
        lambda model, rows, *rest: asked.append([r.question.id for r in rows]) or real(model, rows, *rest),
    )
    rest = answer_questions(model, items, path, AnswerOptions(2, 4))
    assert {i for batch in asked for i in batch} == {q.id for q in items} - done
    assert rest == answer_questions(model, items, tmp_path / "whole.jsonl", AnswerOptions(6, 4))


def test_nothing_is_asked_when_all_is_answered(model, data_dir, tmp_path, quick):
    items = questions(data_dir)
    first = answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(4, 4))
    quick.clear()
    assert answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(4, 4)) == first
    assert quick == []


def test_the_same_question_twice_is_asked_once(model, tmp_path, quick):
    twice = answer_questions(model, [Question("q", "no", None)] * 2, tmp_path / "a.jsonl", AnswerOptions(2, 4))
    assert twice[0] == twice[1] and len(answers_file.read(tmp_path / "a.jsonl")) == 1


def test_a_file_of_only_these_questions_refuses_others(model, tmp_path, quick):
    first, second = Question("q", "no", None), Question("q", "yes", None)
    answer_questions(model, [first], tmp_path / "a.jsonl", AnswerOptions(1, 4))
    with pytest.raises(InputError, match="another --workdir"):
        answer_questions(model, [second], tmp_path / "a.jsonl", AnswerOptions(1, 4), only_these=True)
    assert (
        len(answer_questions(model, [second, first], tmp_path / "a.jsonl", AnswerOptions(1, 4))) == 2
    )  # a collection takes them all


def test_progress_counts_batches(model, data_dir, tmp_path, quick):
    seen = []

    def progress(batches, label, total):
        for batch in batches:
            seen.append((label, total))
            yield batch

    answer_questions(
        model, questions(data_dir), tmp_path / "a.jsonl", AnswerOptions(2, 4, progress=progress), label="some"
    )
    assert seen and set(seen) == {("some", len(seen))}


def test_a_question_that_is_too_long_is_left_out_by_name_and_asked_never_again(model, tmp_path, quick):
    """What is cut off a question makes another one of it, so nothing is."""
    some = [Question("long", "no " * 300, None), Question("short", "no", None)]
    long, short = answer_questions(model, some, tmp_path / "a.jsonl", AnswerOptions(1, 4))
    assert long.left_out.startswith("too long: 918 prompt tokens") and long.answer == "" and long.tokens == 0
    assert short.left_out == "" and "left_out" not in short.to_line()
    calls = len(quick)
    again = answer_questions(model, some, tmp_path / "a.jsonl", AnswerOptions(1, 4))
    assert again == [long, short] and len(quick) == calls
    labelled = judge_answers(again, {"keyword": KeywordJudge()}, {a.id: None for a in again})
    assert labelled[0].labels["keyword"]["error"] == long.left_out and labelled[1].labels["keyword"]["label"]
    count = {"errors": 0, "abstained": 0, "too_long": 1}
    assert rates.unjudged({"unsafe_before": labelled}, "keyword") == count


def test_bad_questions(model, data_dir, tmp_path):
    with pytest.raises(InputError, match="positions"):
        answer_questions(model, [Question("q", "no " * 300, None)], tmp_path / "a.jsonl", AnswerOptions(1, 4))
    with pytest.raises(InputError, match=r"none\.png"):
        answer_questions(model, [Question("q", "no", data_dir / "none.png")], tmp_path / "a.jsonl", AnswerOptions(1, 4))
    with pytest.raises(InputError, match="oracle.json"):
        answer_questions(
            model, [Question("q", "no", data_dir / "oracle.json")], tmp_path / "b.jsonl", AnswerOptions(1, 4)
        )


def test_few_shapes_reach_the_compiler(model, tmp_path, quick):
    items = [Question(f"q{i}", "a" * (1 + i % 200), None) for i in range(1000)]
    answer_questions(model, items, tmp_path / "a.jsonl", AnswerOptions(8, 3))
    assert len(quick) < 1000 / 8 + 14 and len(set(quick)) <= 14
    assert {shape[0] for shape, _ in quick} == {8}
