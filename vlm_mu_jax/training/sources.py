"""From a run's settings to its streams: files are read, split into forget and retain, tokenised, cut and counted."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import batches, forget_retain, readers
from vlm_mu_jax.data.batches import Row, Stream
from vlm_mu_jax.data.prompts import Example, Processor
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.objective import Objective

TARGETS = ("answer", "query", "both")


@dataclasses.dataclass(frozen=True)
class Sources:
    """streams by name, and a manifest: files with sha256, records, rows, answers cut, rows dropped."""

    streams: dict[str, Stream]
    manifest: dict[str, Any]


def read_sources(settings: dict[str, Any], objective: Objective, processor: Processor) -> Sources:
    """Streams of the objective.

    Raises:
      InputError: a file that is needed is not named or not usable.
    """
    data = settings["data"]
    safety, general = _read(data, "safety"), _read(data, "general")
    manifest: dict[str, Any] = {
        "files": {name: r.sha256 for name, r in (("safety", safety), ("general", general)) if r},
        "template": processor.template,
    }
    roots = {**roots_of(general or ()), **roots_of(safety or ())}
    if "forget" in objective.streams:
        parts = _unlearning_parts(settings, objective, safety, general, manifest)
    else:
        parts = {"train": _training_part(settings, safety, general)}
    rows: dict[str, dict[int, Row]] = {}
    for name, records in parts.items():
        target = data["forget_target"] if name == "forget" else "answer"
        rows[name], counts = tokenised(records, roots, processor, data["max_length"], target)
        manifest[name] = {"records": len(records), **counts}
    streams = streams_of(
        rows,
        processor,
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        forget_batch_size=settings["forget_batch_size"],
        buckets=data["buckets"],
    )
    return Sources(streams, manifest)


def streams_of(
    rows: Mapping[str, Mapping[int, Row]],
    processor: Processor,
    *,
    batch_size: int,
    seed: int,
    forget_batch_size: int | None = None,
    buckets: int = 1,
) -> dict[str, Stream]:
    """One stream per part; of a preference pair both halves go when either does.

    Args:
      rows: part name -> position in its records -> row.
      processor: loads the images.
      batch_size: rows per step of every stream.
      seed: of the order of the rows.
      forget_batch_size: rows per step of the forget stream and its preferred answers; None takes `batch_size`.
      buckets: lengths that batches are padded to.
    """
    rows = dict(rows)
    if "preferred" in rows:
        both = rows["forget"].keys() & rows["preferred"].keys()
        rows |= {name: {i: rows[name][i] for i in sorted(both)} for name in ("forget", "preferred")}
    lengths = batches.bucket_lengths([row for part in rows.values() for row in part.values()], buckets)
    streams: dict[str, Stream] = {}
    for name in sorted(rows, key="preferred".__eq__):  # last, because the forget stream decides its order
        of_forget = name in ("forget", "preferred") and forget_batch_size
        streams[name] = Stream(
            list(rows[name].values()),
            of_forget or batch_size,
            seed,
            name=name,
            load_image=processor.pixels,
            lengths=lengths if buckets > 1 else None,
            order_of=streams["forget"] if name == "preferred" else None,
        )
    return streams


def roots_of(records: Sequence[Record]) -> dict[str, Path]:
    """Where each source's images lie, by record source: `records.root`, or the working directory for a plain list."""
    root = getattr(records, "root", Path())
    return {record.source: root for record in records}


def _read(data: dict[str, Any], name: str) -> Records | None:
    return readers.read(Path(data["root"]) / data[name]) if data[name] else None


def _unlearning_parts(
    settings: dict[str, Any],
    objective: Objective,
    safety: Records | None,
    general: Records | None,
    manifest: dict[str, Any],
) -> dict[str, Sequence[Record]]:
    data = settings["data"]
    target = data["forget_target"]
    if target not in TARGETS:
        raise InputError(f"config.data.forget_target: {target!r} is unknown; use one of {', '.join(TARGETS)}")
    if target != "answer" and "preferred" in objective.streams:
        raise InputError(f"config.data.forget_target={target}: a preference is one between answers; set it to answer")
    for name, value in (("safety", safety), ("forget_answers", data["forget_answers"] or target == "query")):
        if not value:
            raise InputError(f"config.data.{name} is not set; unlearning reads requests from it")
    answers = None if target == "query" else Path(data["root"]) / data["forget_answers"]
    separate = data["separate_general"] and "general" in objective.optional_streams
    split = forget_retain.build(
        safety,
        answers,
        () if separate else (general or ()),
        retain_size=data["retain_size"],
        seed=settings["seed"],
        judge=data["judge"],
    )
    manifest["forget_retain"] = split.manifest
    parts: dict[str, Sequence[Record]] = {"forget": split.forget, "retain": split.retain}
    if separate and general:
        parts["general"] = general.items
    if "preferred" in objective.streams:
        kind = settings["objective"]["preferred"]
        parts["preferred"] = forget_retain.preferred(split.forget, safety, kind, settings["seed"])
    return {name: part for name, part in parts.items() if name in (*objective.streams, *objective.optional_streams)}


def _training_part(settings: dict[str, Any], safety: Records | None, general: Records | None) -> list[Record]:
    """Safety data (refusals and safe answers) with all or a seeded sample of the general data."""
    if safety is None and general is None:
        raise InputError("config.data.safety and config.data.general are not set; name at least one data file")
    others, size = list(general or ()), settings["data"]["general_size"]
    if size is not None:
        if size > len(others):
            raise InputError(f"config.data.general_size is {size}, but there are only {len(others)} general records")
        others = random.Random(settings["seed"]).sample(others, size)
    return [*(safety or ()), *others]


def tokenised(
    records: Sequence[Record], roots: dict[str, Path], processor: Processor, longest: int, target: str = "answer"
) -> tuple[dict[int, Row], dict[str, int]]:
    """Token rows by position in `records`. Answers past `longest` tokens are cut; a prompt that leaves no room for one
    is dropped. target: which tokens carry the loss: the answer's, the query's (the row then ends with the prompt), or
    both."""
    rows: dict[int, Row] = {}
    counts = {"rows": 0, "answers_cut": 0, "prompts_too_long": 0, "without_answer": 0}
    for i, record in enumerate(records):
        if target != "query" and not record.answer.strip():
            counts["without_answer"] += 1
            continue
        images = () if record.image is None else (str(roots[record.source] / record.image),)
        row, answer_start = _row(record, images, processor, target)
        if answer_start >= longest:
            counts["prompts_too_long"] += 1
            continue
        if len(row.ids) > longest:
            counts["answers_cut"] += 1
            row = dataclasses.replace(row, ids=row.ids[:longest], mask=row.mask[:longest])
        rows[i] = row
    counts["rows"] = len(rows)
    return rows, counts


def _row(record: Record, images: tuple[str, ...], processor: Processor, target: str) -> tuple[Row, int]:
    """The record's row, and how many of its tokens are the prompt's."""
    if target == "query":
        ids = tuple(processor.prompt_ids(record.question, images))
        example = Example(ids, len(ids))
    else:
        example = processor.example(record.question, record.answer, images)
    row = batches.row(example, images, record.id)
    if target != "answer":
        start, end = processor.question_span(record.question, images)
        row = dataclasses.replace(row, mask=tuple(on or start <= at < end for at, on in enumerate(row.mask)))
    return row, example.answer_start
