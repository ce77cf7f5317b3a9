"""What a data file holds, and what a model will see of it: the look before a first training."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.readers import rows as rows_lib
from vlm_mu_jax.data.readers import shapes
from vlm_mu_jax.data.records import Record, Records, Turn
from vlm_mu_jax.errors import InputError

MEASURED = 2_000  # records whose token lengths are counted, spread over the file
_SHOWN = 10  # problems and lengths of a histogram in the text
_WIDTH = 40  # characters of the longest bar
_ON, _OFF = "\033[32;1m", "\033[0m"
Piece = tuple[str, bool]  # a text, and whether its tokens carry the loss


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a data file holds.

    Attributes:
      path: the file.
      rows: their number.
      shapes: shape -> rows; None for rows of no known shape.
      records: the good rows as records.
      problems: every bad row, (number from 1, what is wrong).
      lengths: tokens of the measured records as training rows, images included; empty without a processor.
      refused: what the chat template refused of them, with the number of records.
      examples: the first records as the model will see them, in pieces; as their words without a processor.
      tokens: whether a processor was given.
    """

    path: Path
    rows: int
    shapes: Mapping[str | None, int]
    records: Records
    problems: Sequence[tuple[int, str]]
    lengths: Sequence[int]
    refused: Mapping[str, int]
    examples: Sequence[Sequence[Piece]]
    tokens: bool = False

    @property
    def good(self) -> bool:
        """Whether every row can be trained on."""
        return not self.problems and not self.refused

    def text(self, colour: bool = False) -> str:
        """All of it in words. colour: what carries the loss is green instead of between [[ and ]]."""
        return "\n".join([*_overview(self), *_lengths(self), *_examples(self, colour)])


def inspect(
    path: str | Path,
    processor: Processor | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    loss: str = "all",
    shown: int = 3,
) -> Inspection:
    """Reads a file and says what is in it. Bad rows are listed, not raised.

    Example:
      found = inspect("train.jsonl", model.processor)
      found.shapes, found.problems[:3], max(found.lengths)

    Args:
      processor: of the model to train; it gives token lengths and the examples' tokens.
      columns, kind: as for `readers.read`.
      loss: which answers carry the loss, as `data.loss` of a training config.
      shown: number of examples.

    Raises InputError when the file is missing, broken or has no good row.
    """
    content, _ = rows_lib.load(path)
    found = Counter(map(shapes.shape_of, content))
    records = readers.read(path, kind=kind, columns=columns, on_bad="skip")
    lengths, refused, examples = [], Counter(), []
    chosen = records.items[:: max(1, -(-len(records) // MEASURED))]
    for record in [*records.items[:shown], *chosen] if processor else ():
        try:
            pieces, length = _seen(record, records, processor, loss)
        except InputError as error:
            pieces, length = [(f"refused: {error}", False)], None
        if len(examples) < min(shown, len(records)):
            examples.append(pieces)
        elif length is None:
            refused[rows_lib.reason(pieces[0][0])] += 1
        else:
            lengths.append(length)
    if not processor:
        examples = [_words(record) for record in records.items[:shown]]
    return Inspection(
        Path(path), len(content), found, records, records.skipped, lengths, refused, examples, bool(processor)
    )


def _seen(record: Record, records: Records, processor: Processor, loss: str) -> tuple[list[Piece], int]:
    """The record's tokens in stretches with and without loss, and their number."""
    turns: Sequence[Turn] = record.turns
    if turns[-1].role == "user" and len(turns) > 1:
        turns = turns[:-1]  # as training does: there is nothing to learn behind it
    images = [records.root / path for turn in turns for path in turn.images]
    if turns[-1].role == "user":
        ids = tuple(processor.conversation_ids(turns, images, record.system))
        mask: tuple[bool, ...] = (False,) * len(ids)
    else:
        example = processor.conversation(turns, images, record.system, loss)
        ids, mask = example.ids, example.mask
    image, pieces = processor.cfg.image_token_id, []
    for (carries, is_image), group in itertools.groupby(zip(ids, mask, strict=True), lambda p: (p[1], p[0] == image)):
        stretch = [token for token, _ in group]
        text = f"<{len(stretch)} image tokens>" if is_image else processor.tokenizer.decode(stretch)
        pieces.append((text, carries))
    return pieces, len(ids)


def _words(record: Record) -> list[Piece]:
    """The turns as they stand."""
    system = [(f"system: {record.system}\n", False)] if record.system else []
    said = [
        ("".join(p if isinstance(p, str) else f"<image {p.path}> " for p in turn.parts), turn) for turn in record.turns
    ]
    return [*system, *((f"{turn.role}: {text}\n", turn.role == "assistant") for text, turn in said)]


def _overview(found: Inspection) -> list[str]:
    records = found.records
    shapes = ", ".join(
        f"{name or 'of no known shape'} {count}"
        for name, count in sorted(found.shapes.items(), key=lambda one: -one[1])
    )
    turns, images = Counter(len(r.turns) for r in records), Counter(len(r.images) for r in records)
    lines = [
        f"{found.path}: {found.rows} rows ({shapes}), {len(records)} records read",
        f"  turns    {_counted(turns)}",
        f"  images   {_counted(images)}",
        f"  kinds    {_counted(Counter(r.kind for r in records))}",
    ]
    extra = {
        "with a system text": sum(r.system is not None for r in records),
        "ending with a question": sum(r.turns[-1].role == "user" for r in records),
        "with a rejected answer": sum(bool(r.rejected) for r in records),
    }
    lines += [f"  {count} {what}" for what, count in extra.items() if count]
    lines += [f"  note: {count} rows: {what}" for what, count in records.notes.items()]
    lines += [f"{len(found.problems)} bad rows:" if len(found.problems) != 1 else "1 bad row:"] * bool(found.problems)
    lines += [f"  row {number}: {what}" for number, what in found.problems[:_SHOWN]]
    if len(found.problems) > _SHOWN:
        lines.append(f"  and {len(found.problems) - _SHOWN} more")
    lines += [
        f"the chat template refuses {count} of the measured records: {what}" for what, count in found.refused.items()
    ]
    return lines


def _counted(numbers: Counter) -> str:
    return ", ".join(
        f"{value} ({count})" for value, count in sorted(numbers.items(), key=lambda one: str(one[0]).zfill(9))
    )


def _lengths(found: Inspection) -> list[str]:
    """A histogram of the rows' tokens."""
    if not found.lengths:
        return []
    low, high = min(found.lengths), max(found.lengths)
    step = max(1, -(-(high - low + 1) // _SHOWN))
    bins = Counter((length - low) // step for length in found.lengths)
    measured = "" if len(found.lengths) == len(found.records) else f", of {len(found.lengths)} measured records"
    ordered = sorted(found.lengths)
    lines = [f"tokens{measured}: {low} to {high}, median {ordered[len(ordered) // 2]}"]
    for k in range(max(bins) + 1):
        bar = "#" * -(-bins[k] * _WIDTH // max(bins.values()))
        lines.append(f"  {low + k * step:>6} - {min(low + (k + 1) * step - 1, high):<6} {bins[k]:>7} {bar}")
    return lines


def _examples(found: Inspection, colour: bool) -> list[str]:
    """The first rows, what carries the loss in colour, or between [[ and ]] where there is none."""
    how = "in green" if colour else "between [[ and ]]"
    seen = "as the model will see them" if found.tokens else "as they were read (give --checkpoint for its tokens)"
    lines = [f"the first rows {seen}; what carries the loss is {how}:"] if found.examples else []
    for record, pieces in zip(found.records, found.examples, strict=False):
        lines += [f"--- {record.id}", _marked(pieces, colour)]
    return lines


def _marked(pieces: Sequence[Piece], colour: bool) -> str:
    on, off = (_ON, _OFF) if colour else ("[[", "]]")
    return "".join(f"{on}{text}{off}" if carries else text for text, carries in pieces)
