"""A model's answers to the records of one data file, as `bin/generate --data` writes them: OUT and OUT.provenance.json.

The second file says which model answered which data file with which settings. A killed run goes on. A run with another
model or other settings is refused, so that no answers file mixes two models.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import questions as question_files
from vlm_mu_jax.data.records import KINDS, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.steering.guard import open_guard
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.storage.model_folder import Model


def provenance_path(out: str | Path) -> Path:
    """Where what is known about an answers file stands."""
    return Path(f"{out}.provenance.json")


def answer_file(
    model: Model,
    data: str | Path | Records,
    out: str | Path,
    *,
    kinds: Sequence[str] = (),
    guard: str | Path | None = None,
    options: AnswerOptions = AnswerOptions(),
) -> list[Answer]:
    """Greedy answers to the records of a data file, in `out`.

    Args:
      data: a file of questions, as `data.questions.read` takes it, or its records.
      out: the answers file. A killed run goes on where it stopped.
      kinds: ask only records of these kinds (`data.records.KINDS`); () asks all.
      guard: guard folder that steers the model; it takes the place of `options.steer`.
      options: how the questions are answered.

    Raises:
      InputError: a kind does not exist or is not there, or `out` holds answers made otherwise.
    """
    records = data if isinstance(data, Records) else question_files.read(data)
    asked = asked_of(records, kinds)
    settings = {
        "checkpoint": str(model.folder),
        "weights_sha256": weights_hash(model.params),
        "guard": None if guard is None else str(guard),
    }
    steer, _ = open_guard(model, guard)
    return answer_records(model, asked, out, settings, dataclasses.replace(options, steer=steer))


def asked_of(records: Records, kinds: Sequence[str]) -> Records:
    """The records of these kinds; () asks all. Raises InputError when a kind does not exist or has no record."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise InputError(f"--kinds: {', '.join(unknown)} is none of {', '.join(KINDS)}")
    asked = records.of_kind(*(kinds or KINDS))
    if not len(asked):
        raise InputError(f"--data={records.source}: holds no record of --kinds={','.join(kinds)}")
    return asked


def answer_records(
    model: Model,
    records: Records,
    out: str | Path,
    settings: dict[str, Any],
    options: AnswerOptions = AnswerOptions(),
) -> list[Answer]:
    """Greedy answers to all records, in their order, in `out`.

    Args:
      settings: plain JSON values that identify the model and whatever else decides its answers. They are kept beside
        `out`, with the data file's sha256 and `max_new_tokens`. The value `checkpoint` may change: it says where the
        model lay, which decides nothing.

    Raises:
      InputError: `out` holds answers made with other settings, or to other records.
    """
    _claim(Path(out), {**settings, "data_sha256": records.sha256, "max_new_tokens": options.max_new_tokens})
    return answer_questions(model, questions(records), out, options, only_these=True)


def questions(records: Records) -> list[Question]:
    """The records' own questions with their own images; of a conversation the last one, behind the earlier turns."""
    return [Question.of(records, record.at_question(-1)) for record in records]


def read_provenance(out: str | Path) -> dict[str, Any] | None:
    """What stands beside an answers file; None when nothing does. InputError when it is damaged."""
    path = provenance_path(out)
    return read_json(path) if path.exists() else None


def _claim(out: Path, settings: dict[str, Any]) -> None:
    known = read_provenance(out)
    if known is None:
        if out.exists() and answers_file.read(out):
            raise InputError(f"{out}: holds answers of an unknown model; give another --out")
        write_json(provenance_path(out), settings)
        return
    differ = _differing(known, settings)
    if differ:
        raise InputError(f"{out}: its answers were made with another {', '.join(differ)}; give another --out")


def _differing(a: dict[str, Any], b: dict[str, Any]) -> Sequence[str]:
    return [name for name in sorted({*a, *b} - {"checkpoint"}) if a.get(name) != b.get(name)]
