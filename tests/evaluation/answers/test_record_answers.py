"""Answers to a data file: resumable, and one file never mixes two models."""

import json

import pytest

from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions
from vlm_mu_jax.evaluation.answers.record_answers import answer_records, provenance_path

SETTINGS = {"weights_sha256": "a", "checkpoint": "here"}


def test_all_records_are_asked_once_with_their_images(model, data_dir, tmp_path, quick):
    records = readers.read(data_dir / "test.json").of_kind("unsafe")
    out = tmp_path / "answers" / "a.jsonl"
    answers = answer_records(model, records, out, SETTINGS, AnswerOptions(4, 4))
    assert [a.id for a in answers] == [r.id for r in records] and all(with_image for _, with_image in quick)
    known = json.loads(provenance_path(out).read_text())
    assert known["weights_sha256"] == "a" and known["data_sha256"] == records.sha256
    asked = len(quick)
    moved = {**SETTINGS, "checkpoint": "there"}
    assert answer_records(model, records, out, moved, AnswerOptions(4, 4)) == answers
    assert len(quick) == asked


def test_another_model_or_setting_is_refused(model, data_dir, tmp_path, quick):
    records = readers.read(data_dir / "test.json").of_kind("unsafe")
    out = tmp_path / "a.jsonl"
    answer_records(model, records, out, SETTINGS, AnswerOptions(max_new_tokens=4))
    with pytest.raises(InputError, match="another weights_sha256"):
        answer_records(model, records, out, {**SETTINGS, "weights_sha256": "b"}, AnswerOptions(max_new_tokens=4))
    with pytest.raises(InputError, match="another max_new_tokens"):
        answer_records(model, records, out, SETTINGS, AnswerOptions(max_new_tokens=5))
    provenance_path(out).unlink()
    with pytest.raises(InputError, match="unknown model"):
        answer_records(model, records, out, SETTINGS, AnswerOptions(max_new_tokens=4))
