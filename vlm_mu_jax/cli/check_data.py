"""`bin/curate --check=FILE`: what a data file is, what is wrong, and its first rows as the model will see them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_mu_jax.data.inspection import Inspection, Piece

_SHOWN = 10  # problems and lengths of a histogram
_WIDTH = 40  # characters of the longest bar
_ON, _OFF = "\033[32;1m", "\033[0m"


def check(path: str, checkpoint: str | None = None, columns: str = "", kind: str | None = None) -> int:
    """Prints what a data file holds; 0 when every row is good, else 2.

    checkpoint: model folder whose tokenizer and chat template the rows are shown with.
    """
    import sys

    from vlm_mu_jax.data.inspection import inspect
    from vlm_mu_jax.data.questions import parse_columns

    processor = None if checkpoint is None else _processor(checkpoint)
    found = inspect(path, processor, columns=parse_columns(columns), kind=kind)
    print(
        "\n".join([*_overview(found), *_lengths(found), *_examples(found, sys.stdout.isatty(), processor is not None)])
    )
    return 2 if found.problems or found.refused else 0


def _processor(checkpoint: str):
    """Tokenizer, chat template and image settings of a model folder, without its weights."""
    from vlm_mu_jax.data.prompts import Processor
    from vlm_mu_jax.storage import model_folder

    folder = model_folder.find(checkpoint)
    stored = model_folder.read_settings(folder)
    return Processor.from_folder(folder, model_folder.read_config(folder), stored["template"], stored.get("system"))


def _overview(found: "Inspection") -> list[str]:
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


def _lengths(found: "Inspection") -> list[str]:
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


def _examples(found: "Inspection", colour: bool, tokens: bool) -> list[str]:
    """The first rows, what carries the loss in colour, or between [[ and ]] where there is none."""
    how = "in green" if colour else "between [[ and ]]"
    seen = "as the model will see them" if tokens else "as they were read (give --checkpoint for its tokens)"
    lines = [f"the first rows {seen}; what carries the loss is {how}:"] if found.examples else []
    for record, pieces in zip(found.records, found.examples, strict=False):
        lines += [f"--- {record.id}", _marked(pieces, colour)]
    return lines


def _marked(pieces: Sequence["Piece"], colour: bool) -> str:
    on, off = (_ON, _OFF) if colour else ("[[", "]]")
    return "".join(f"{on}{text}{off}" if carries else text for text, carries in pieces)
