"""A model's answers to the records of one data file, as `bin/generate --data` writes them: OUT and OUT.provenance.json.

The second file says which model answered which data file with which settings. A killed run goes on. A run with another
model or other settings is refused, so that no answers file mixes two models.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from vlm_mu_jax.data import questions as question_files
from vlm_mu_jax.data.records import KINDS, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file, together
from vlm_mu_jax.evaluation.answers import share as shares
from vlm_mu_jax.evaluation.answers.answers_file import Answer
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.answers.share import Share
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.files.json_file import read_json, write_json
from vlm_mu_jax.files.paths import at_home
from vlm_mu_jax.parallel.distributed import first
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
    share: Share | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Greedy answers to the records of a data file, in `out`.

    In a job of several processes all call this: each answers its share, and process 0 puts all of them into `out`.

    Args:
      data: a file of questions, as `data.questions.read` takes it, or its records.
      out: the answers file. A killed run goes on where it stopped.
      kinds: ask only records of these kinds (`data.records.KINDS`); () asks all.
      guard: guard folder that steers the model; it takes the place of `options.steer`.
      options: how the questions are answered.
      share: only this share of the records is asked, and its answers stay in OUT.shards/ until `join_shares`.
      tell: gets a line about a process that others wait for.

    Raises:
      InputError: a kind does not exist or is not there, or `out` holds answers made otherwise.
      JobError: a process is gone.
    """
    out = at_home(out)
    records = data if isinstance(data, Records) else question_files.read(data)
    asked = asked_of(records, kinds)
    settings = {
        "checkpoint": str(model.folder),
        "weights_sha256": weights_hash(model.params),
        "guard": None if guard is None else str(guard),
    }
    steer, _ = open_guard(model, guard)
    options = dataclasses.replace(options, steer=steer)
    if share is not None:
        shares.check_number(shares.folder_of(out), share)
        return _answer_share(model, asked, share, out, settings, options)
    if jax.process_count() == 1:
        return answer_records(model, asked, out, settings, options)
    return _together(model, asked, out, settings, options, tell)


def join_shares(records: Records, out: str | Path) -> list[Answer]:
    """Puts the answers of all shares into `out`, in the order of the records, and removes the shares.

    Raises:
      InputError: answers are missing, which names their shares; or the shares were made differently.
    """
    out = at_home(out)
    folder = shares.folder_of(out)
    there = shares.found(folder)
    if not there:
        raise InputError(f"{folder}: no shards; make them with --shard=K/N")
    known = {answer.id for path in (out, *there.values()) for answer in answers_file.read(path)}
    missing = {
        str(share): sum(record.id not in known for record in _dealt(records, share)) for share in shares.all_of(there)
    }
    shares.check_none_open(folder, [f"{share} ({number} answers)" for share, number in missing.items() if number])
    _collect(out)
    with answers_file.AnswersFile(out) as kept:
        keys = {answer.id: answer.key for answer in kept.answers}
        kept.arrange(keys[record.id] for record in records)
        return kept.answers


def _together(
    model: Model,
    records: Records,
    out: Path,
    settings: dict[str, Any],
    options: AnswerOptions,
    tell: Callable[[str], None] | None,
) -> list[Answer]:
    """The answers of all processes; in process 0 all answers, in the others their own."""

    def answer(share: Share) -> list[Answer]:
        known = {answer.id for answer in answers_file.read(out)}
        rest = dataclasses.replace(records, items=tuple(record for record in records if record.id not in known))
        return _answer_share(model, rest, share, out, settings, options)

    made = together.answer_together(out, shares.folder_of(out), answer, lambda: _collect(out), tell)
    return answer_records(model, records, out, settings, options) if first() else made


def _answer_share(
    model: Model, records: Records, share: Share, out: Path, settings: dict[str, Any], options: AnswerOptions
) -> list[Answer]:
    path, options = shares.folder_of(out) / f"{share.name}.jsonl", dataclasses.replace(options, is_share=True)
    return answer_records(model, _dealt(records, share), path, settings, options)


def _dealt(records: Records, share: Share) -> Records:
    mine = {question.id for question in shares.dealt(questions(records), share)}
    return dataclasses.replace(records, items=tuple(record for record in records if record.id in mine))


def _collect(out: Path) -> None:
    """Moves the answers of all shares that there are into `out`."""
    there = shares.found(shares.folder_of(out))
    for path in there.values():
        _claim(out, read_provenance(path) or {})
        shares.append(out, [path])
    if there:
        shares.remove(shares.folder_of(out))


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
    out = at_home(out)
    _claim(out, {**settings, "data_sha256": records.sha256, "max_new_tokens": options.max_new_tokens})
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
