"""Whoever reads JSON refuses what JSON can hold and we cannot: too deep, a number too long, no UTF-8; in one line."""

import pytest

from vlm_mu_jax.attacks.margin.search_run import MarginsFile
from vlm_mu_jax.attacks.methods.texts import read_paraphrases
from vlm_mu_jax.attacks.words.vocabulary import candidate_words
from vlm_mu_jax.data import forget_retain, readers
from vlm_mu_jax.data.questions import read_conversation
from vlm_mu_jax.data.readers import long_files
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.defences.instruction_settings import read_templates
from vlm_mu_jax.evaluation.defences.wrappers import read_wording
from vlm_mu_jax.evaluation.judges.agreement_table import label_file, read_labelled
from vlm_mu_jax.evaluation.judges.cache import JudgeCache
from vlm_mu_jax.evaluation.judges.oracle import OracleJudge
from vlm_mu_jax.evaluation.questions.suite import read_attack_words
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.steering import guard_folder
from vlm_mu_jax.training.evaluation import EvaluationHistory, EvaluationPlan

HOSTILE = {
    "nested lists": b"[" * 20_000,
    "nested objects": b'{"a": ' * 20_000,
    "a number of 5,000 digits": b'[{"id": 1' + b"0" * 5000 + b"}]",
    "no UTF-8": b'{"id": "\xff\xfe"}',
}
READERS = {
    "data.json": readers.read,
    "data.jsonl": readers.read,
    "conversation.json": read_conversation,
    "answers.jsonl": answers_file.read,
    "forget.jsonl": lambda path: forget_retain.build([], path),
    "wording.json": read_wording,
    "templates.json": read_templates,
    "attack.json": read_attack_words,
    "paraphrases.json": read_paraphrases,
    "audit.json": lambda path: candidate_words(f"audit:{path}", None),
    "oracle.json": OracleJudge.from_file,
    "said.jsonl": lambda path: label_file(path, "refusal"),
    "human.json": lambda path: read_labelled([path]),
    "cache.jsonl": JudgeCache,
    "guard.json": lambda path: guard_folder.read(path.parent),
    "margins.jsonl": lambda path: MarginsFile(path, {}),
    "evaluations.jsonl": lambda path: EvaluationHistory(EvaluationPlan(lambda *_: {}, 1), path.parent, 1),
    "plain.json": read_json,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", READERS)
def test_a_hostile_file_is_refused_in_one_line(name, what, tmp_path):
    path = tmp_path / name
    path.write_bytes(HOSTILE[what] + b"\n")
    with pytest.raises(InputError) as error:
        READERS[name](path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("start", [b"[", b""])
def test_a_long_file_too(what, start, tmp_path, monkeypatch):
    monkeypatch.setattr(long_files, "LONG", 0)
    path = tmp_path / "data.json"
    path.write_bytes(start + HOSTILE[what] + b"\n")
    with pytest.raises(InputError) as error:
        readers.read(path)
    assert "\n" not in str(error.value)
