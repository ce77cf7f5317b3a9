"""A data file written again with other questions: same format, same rows, answers and images; nothing else changes."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.hashes import sha256
from vlm_mu_jax.files.outputs import complete_file

_MARK = "<image>"  # LLaVA's place of an image in a question


def rewrite(records: Records, questions: Sequence[str], out: str | Path) -> str:
    """Writes `records.source` to `out` with question i in the place of record i's; returns the new file's sha256.

    JSON of VLGuard, LLaVA or a request list, or SPA-VL's parquet. Images that lie beside the source and not beside
    `out` are linked there (copied where a link is impossible), since image paths are relative to the file's folder.

    Args:
      records: all records of the file, in file order, as a reader gave them.

    Raises:
      InputError: the file's questions are not found where the format has them, an image is missing, or `out` ends in
        another way than the source.
    """
    out = Path(out)
    if len(questions) != len(records):
        raise ValueError(f"{len(questions)} questions for {len(records)} records")
    if records.source.is_dir():
        raise InputError(f"{records.source}: these records come from several files; give one of them")
    if out.suffix.lower() != records.source.suffix.lower():
        raise InputError(f"{out}: the format stays as it is, so the file's name must end in {records.source.suffix}")
    if records.source.suffix.lower() == ".parquet":
        _write_parquet(records, questions, out)
    else:
        _write_json(records, questions, out)
    return sha256(out)


def _write_json(records: Records, questions: Sequence[str], out: Path) -> None:
    content, _ = _rows.load(records.source)
    places = [(row, holder, key) for row in content for holder, key in _places(row)]
    if len(places) != len(records):
        raise InputError(f"{records.source}: its format cannot be written again; use VLGuard, LLaVA or request JSON")
    for (row, holder, key), record, question in zip(places, records, questions, strict=True):
        if _plain(holder[key]) != _plain(record.question):
            raise InputError(f"{records.source}: the question of {record.id!r} is not where its format has it")
        holder[key] = _exchanged(holder[key], record, question)
        if record.image is not None:
            row["image"] = record.image  # as it was found: a reader may look into folders named like the file
            _bring(records.root, out.parent, record.image)
    with complete_file(out) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _places(row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, key) of every question of a row, in the order in which the readers give its records."""
    if "instr-resp" in row:
        for pair in row["instr-resp"]:
            yield pair, next(key for key in pair if key != "response")
    elif "conversations" in row:
        yield row["conversations"][0], "value"
    elif "question" in row:
        yield row, "question"


def _plain(text: str) -> str:
    return text.replace(_MARK, "").strip()


def _exchanged(text: str, record: Record, question: str) -> str:
    """The new question, image marks where they were (in front where they stood inside the old question)."""
    if question == record.question:
        return text
    if record.question in text:
        return text.replace(record.question, question, 1)
    return f"{_MARK}\n" * text.count(_MARK) + question


def _bring(root: Path, folder: Path, image: str) -> None:
    """Makes root/image known as folder/image."""
    target = folder / image
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(root / image, target)
    except FileNotFoundError:
        raise InputError(f"{root / image}: no such image; give the data with their images") from None
    except OSError:  # another file system, or one without links
        shutil.copyfile(root / image, target)


def _write_parquet(records: Records, questions: Sequence[str], out: Path) -> None:
    from pyarrow import array, parquet  # optional; reading the records has named it if it is missing

    table = parquet.read_table(records.source)
    column = table.schema.get_field_index("question")
    if column < 0 or table.column(column).to_pylist() != [record.question for record in records]:
        raise InputError(f"{records.source}: its column 'question' does not hold one question per record")
    field = table.schema.field(column)
    parquet.write_table(table.set_column(column, field, array(questions, field.type)), out)
