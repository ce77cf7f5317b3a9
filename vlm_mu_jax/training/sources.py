"""The streams of a run: files are read, split into forget and retain, tokenised, cut and counted."""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import batches, forget_retain, readers
from vlm_mu_jax.data.batches import Stream, TrainRow
from vlm_mu_jax.data.long_rows import LongRows
from vlm_mu_jax.data.mixed import Mixed
from vlm_mu_jax.data.prompts import LOSSES, Example, Processor
from vlm_mu_jax.data.readers import hub
from vlm_mu_jax.data.readers import rows as rows_lib
from vlm_mu_jax.data.readers.long_files import IndexedItems
from vlm_mu_jax.data.records import Record, Records, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.buckets import named
from vlm_mu_jax.objectives.objective import Objective

TARGETS = ("answer", "query", "both")
AT_ONCE = 20_000  # records that are tokenised before the first step; more of them when a step reads them
Rows = Mapping[int, TrainRow] | LongRows  # by position in the records, or by number
_COUNTS = ("answers_cut", "turns_cut", "open_questions_cut", "prompts_too_long", "without_answer")
_SHOWN = 5  # skipped rows that the manifest spells out


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
      streams: by name.
      manifest: files with their sha256, and counts of records, rows, answers cut and rows dropped.
    """

    streams: dict[str, Stream]
    manifest: dict[str, Any]

    def counted(self) -> dict[str, Any]:
        """The manifest with what was done to the long rows that were read so far."""
        longer = {name: dict(stream.rows.counts) for name, stream in self.streams.items() if stream.is_long}
        parts = {name: {**self.manifest[name], "read_so_far": counts} for name, counts in longer.items()}
        return {**self.manifest, **parts}


def read_sources(settings: dict[str, Any], objective: Objective, processor: Processor) -> Sources:
    """Streams of the objective.

    Raises:
      InputError: a file that is needed is not named or not usable.
    """
    data = settings["data"]
    if data["loss"] not in LOSSES:
        raise InputError(f"config.data.loss: {data['loss']!r} is unknown; use one of {', '.join(LOSSES)}")
    safety, general = _read(data, "safety"), _read(data, "general")
    given = {name: records for name, records in (("safety", safety), ("general", general)) if records is not None}
    manifest: dict[str, Any] = {
        "files": {name: records.sha256 for name, records in given.items()},
        "read": {name: _reading(records) for name, records in given.items() if records.notes or records.skipped},
        "template": processor.template,
    }
    roots = {**roots_of(general or ()), **roots_of(safety or ())}
    if "forget" in objective.streams:
        parts = _unlearning_parts(settings, objective, safety, general, manifest)
    else:
        parts = {"train": _training_part(settings, safety, general)}
    rows: dict[str, Rows] = {}
    for name, records in parts.items():
        target = data["forget_target"] if name == "forget" else "answer"
        rows[name], counts = rows_of(records, roots, processor, data["max_length"], target, loss_of(name, data["loss"]))
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
    rows: Mapping[str, Rows],
    processor: Processor,
    *,
    batch_size: int,
    seed: int,
    forget_batch_size: int | None = None,
    buckets: int = 1,
) -> dict[str, Stream]:
    """One stream per part; of a preference pair both halves go when either does.

    Args:
      rows: part name -> position in its records -> row, or long rows.
      processor: loads the images.
      batch_size: rows per step of every stream.
      seed: of the order of the rows.
      forget_batch_size: rows per step of the forget stream and its preferred answers; None takes `batch_size`.
      buckets: lengths that batches are padded to.
    """
    rows = dict(rows)
    if "preferred" in rows:
        if any(isinstance(rows[name], LongRows) for name in ("forget", "preferred")):
            raise InputError(f"more than {AT_ONCE} preference pairs are not read in parts; give fewer")
        both = rows["forget"].keys() & rows["preferred"].keys()
        rows |= {name: {i: rows[name][i] for i in sorted(both)} for name in ("forget", "preferred")}
    known = [row for part in rows.values() if not isinstance(part, LongRows) for row in part.values()]
    lengths = batches.bucket_lengths(known, buckets)
    if longer := [part for part in rows.values() if isinstance(part, LongRows)]:
        lengths = tuple(sorted({*(lengths if known else ()), *(n for part in longer for n in part.lengths(buckets))}))
    streams: dict[str, Stream] = {}
    for name in sorted(rows, key="preferred".__eq__):  # last, because the forget stream decides its order
        of_forget = name in ("forget", "preferred") and forget_batch_size
        streams[name] = Stream(
            rows[name] if isinstance(rows[name], LongRows) else list(rows[name].values()),
            of_forget or batch_size,
            seed,
            name=name,
            load_image=processor.pixels,
            image_token_id=processor.cfg.image_token_id,
            encoded=processor.encoded_images,
            lengths=lengths if buckets > 1 or longer else None,
            order_of=streams["forget"] if name == "preferred" else None,
        )
    return streams


def roots_of(records: Sequence[Record]) -> dict[str, Path]:
    """Where each source's images lie, by record source: `records.root`, or the working directory for a plain list."""
    root = getattr(records, "root", Path())
    items = getattr(records, "items", records)
    sources = items.sources if isinstance(items, IndexedItems) else {record.source for record in records}
    return dict.fromkeys(sources, root)


def _read(data: dict[str, Any], name: str) -> Records | None:
    """The records of a file, with image paths under data.root: files of one shape may lie in several folders."""
    if not data[name]:
        return None
    root = Path(data["root"])
    file = data[name] if hub.is_hub(data[name]) else root / data[name]
    return readers.read(file, on_bad=data["on_bad"]).rebased(root)


def _reading(records: Records) -> dict[str, Any]:
    """What a reader did to a file's rows: notes, the rows left out by reason, and the first of them."""
    skipped = Counter(rows_lib.reason(what) for _, what in records.skipped)
    first = [f"row {number}: {what}" for number, what in records.skipped[:_SHOWN]]
    return {"notes": dict(records.notes), "skipped": dict(skipped), "first_skipped": first}


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
    if safety is not None and not data["forget_answers"] and any(record.rejected for record in safety):
        return _pairs(settings, objective, safety, general, manifest)
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


def _pairs(
    settings: dict[str, Any], objective: Objective, safety: Records, general: Records | None, manifest: dict[str, Any]
) -> dict[str, Sequence[Record]]:
    """Parts of a file of preference pairs: rejected answers to forget, chosen ones to prefer; the rest is retained."""
    pairs = [record for record in safety if record.rejected]
    others = [record for record in safety if not record.rejected and record.kind != "unsafe"]
    parts: dict[str, Sequence[Record]] = {"forget": [r.answered(r.rejected) for r in pairs], "preferred": pairs}
    if "retain" in objective.streams:
        size, seed = settings["data"]["retain_size"], settings["seed"]
        parts["retain"] = forget_retain.mix_retain(others, general or (), size, seed)
    manifest["pairs"] = {"records": len(pairs), "sha256": forget_retain.digest(pairs)}
    return {name: part for name, part in parts.items() if name in objective.streams}


def _training_part(settings: dict[str, Any], safety: Records | None, general: Records | None) -> Sequence[Record]:
    """Safety data (refusals and safe answers) with all or a seeded sample of the general data."""
    if safety is None and general is None:
        raise InputError("config.data.safety and config.data.general are not set; name at least one data file")
    others, size = Mixed.of(general or ()), settings["data"]["general_size"]
    if size is not None:
        if size > len(others):
            raise InputError(f"config.data.general_size is {size}, but there are only {len(others)} general records")
        others = others.drawn(random.Random(settings["seed"]), size)
    whole = Mixed.of(safety or (), others)
    return whole if len(whole) > AT_ONCE else list(whole)


def loss_of(stream: str, loss: str) -> str:
    """Which answers of a stream's conversations carry the loss. What is forgotten, and what is preferred to it, is the
    answer to the last question: the answers before it are part of its prompt."""
    return "last" if stream in ("forget", "preferred") else loss


def rows_of(
    records: Sequence[Record],
    roots: dict[str, Path],
    processor: Processor,
    longest: int,
    target: str = "answer",
    loss: str = "all",
) -> tuple[Rows, dict[str, Any]]:
    """`tokenised`, or of more than `AT_ONCE` records rows that are made when a step reads them, and what is known of
    them before."""
    if len(records) <= AT_ONCE or target != "answer":
        return tokenised(records, roots, processor, longest, target, loss)
    mixed = records if isinstance(records, Mixed) else Mixed.of(records)

    def fit(place: int) -> tuple[TrainRow | None, list[str]]:
        record = mixed[place]
        try:
            return _fitted(record, roots.get(record.source, Path()), processor, longest, target, loss)
        except InputError as error:
            raise InputError(f"record {record.id!r}: {error}") from None

    identity = f"{processor.template}/{longest}/{loss}/{sorted((k, named(str(v))) for k, v in roots.items())}"
    rows = LongRows(mixed, fit, longest, identity)
    return rows, {"rows": len(rows), "without_answer": rows.unanswered, "tokenised": "when a step reads them"}


def tokenised(
    records: Sequence[Record],
    roots: dict[str, Path],
    processor: Processor,
    longest: int,
    target: str = "answer",
    loss: str = "all",
) -> tuple[dict[int, TrainRow], dict[str, int]]:
    """Token rows by position in `records`, and counts of what was cut or left out.

    A conversation longer than `longest` tokens loses its last turns, pair by pair. If its first pair alone is too long,
    the answer is cut. A prompt that leaves no room for an answer is left out. So is a question without an answer; a
    last question without one is cut off.

    Args:
      records: what to train on.
      roots: folder of the images, by record source.
      longest: tokens of a row, image tokens included.
      target: which tokens carry the loss: the "answer"'s, those of the "query" (the row then ends with the prompt), or
        "both". The last two take records of one question.
      loss: whether "all" answers of a conversation carry the loss, or the "last".

    Raises InputError for a record that the chat template refuses, with its id.
    """
    rows: dict[int, TrainRow] = {}
    counts = dict.fromkeys(("rows", *_COUNTS), 0)
    for i, record in enumerate(records):
        try:
            row, what = _fitted(record, roots.get(record.source, Path()), processor, longest, target, loss)
        except InputError as error:
            raise InputError(f"record {record.id!r}: {error}") from None
        for name in what:
            counts[name] += 1
        if row is not None:
            rows[i] = row
    counts["rows"] = len(rows)
    return rows, counts


def _fitted(
    record: Record, root: Path, processor: Processor, longest: int, target: str, loss: str
) -> tuple[TrainRow | None, list[str]]:
    """A record's row, None where it has none, and which of `_COUNTS` were done to it."""
    if target != "answer" and not record.is_short:
        raise InputError(f"data.forget_target={target} takes one question about at most one image; set it to answer")
    turns, what = record.turns, []
    if target != "query":
        if turns[-1].role == "user" and len(turns) > 1:
            turns, what = turns[:-1], ["open_questions_cut"]
        if len(turns) == 1 or not turns[1].text.strip():
            return None, [*what, "without_answer"]
    row, start = _row(record, turns, root, processor, target, loss)
    while len(row.ids) > longest and len(turns) > 2 and loss == "all":  # else another answer would carry the loss
        what = [*dict.fromkeys([*what, "turns_cut"])]
        turns = turns[:-2]
        row, start = _row(record, turns, root, processor, target, loss)
    if start >= longest:
        return None, [*what, "prompts_too_long"]
    if len(row.ids) > longest:
        what.append("answers_cut")
        row = dataclasses.replace(row, ids=row.ids[:longest], mask=row.mask[:longest])
    return row, what


def _row(
    record: Record, turns: Sequence[Turn], root: Path, processor: Processor, target: str, loss: str
) -> tuple[TrainRow, int]:
    """The row of the record's first turns, and its number of tokens before those that carry the loss."""
    images = tuple(processor.together([str(root / path) for turn in turns for path in turn.images]))
    if target == "query":
        ids = tuple(processor.prompt_ids(record.question, images))
        example = Example(ids, len(ids))
    else:
        example = processor.conversation(turns, images, record.system, loss)
    row = batches.row(example, images, record.id)
    if target != "answer":
        start, end = processor.question_span(record.question, images)
        row = dataclasses.replace(row, mask=tuple(on or start <= at < end for at, on in enumerate(row.mask)))
    return row, example.answer_start
