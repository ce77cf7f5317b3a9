"""Files of questions: what a red-teamer has. One function reads them all, with or without reference answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.data import readers
from vlm_mu_jax.data.readers import shapes
from vlm_mu_jax.data.readers.rows import RowReader
from vlm_mu_jax.data.records import KINDS, Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.hashes import sha256

# What --columns can rename: the usual columns of question and instruction files.
COLUMNS = (
    "id",
    "question",
    "answer",
    "image",
    "images",
    "kind",
    "category",
    "system",
    "messages",
    "conversations",
    "chosen",
    "rejected",
)


def read(
    path: str | Path,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    check_images: bool = True,
    on_bad: str = "stop",
) -> Records:
    """The questions of a file, alone or in a conversation.

    The file is TXT (a question a line), CSV, TSV, JSON, JSON lines or Parquet. The question stands in a column
    `question`, `prompt`, `instruction`, `query`, `text`, `goal` or `Goal`; an image path in `image` or `image_path`,
    relative to the file's folder; the kind in `kind`. Rows without an `id` are named by their number. Training files
    are read, too: `Record.question` is the first question of a conversation, and `data.turns.cut` chooses another.

        read("questions.txt", kind="unsafe")
        read("HarmBench.csv", kind="unsafe", columns={"question": "Behavior", "id": "BehaviorID"})

    Args:
      kind: of rows that name none: "unsafe", "safe" or "general". None = "general", which counts as harmless.
      columns: our name of a column -> the file's.
      check_images: whether a missing image file makes a row bad.
      on_bad: "stop" raises at bad rows, "skip" leaves them out; they then stand in `Records.skipped`.

    Raises InputError (BadRows) for a file that is none.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--kind={kind}: is none of {', '.join(KINDS)}")
    return readers.read(path, check_images=check_images, kind=kind, columns=columns, on_bad=on_bad)


def read_conversation(path: str | Path) -> Records:
    """The one conversation of a file, of any shape.

    JSON may hold the conversation itself, as one object or as its list of messages:
    `[{"role": "user", "content": "..."}, ...]`.

    Raises InputError (BadRows) for a file that is none, or that holds several conversations.
    """
    path = Path(path)
    content = _parsed(path) if path.suffix.lower() == ".json" else None
    if isinstance(content, list) and all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in content):
        content = {"messages": content}
    if isinstance(content, dict):
        reader = RowReader(path)
        records = reader.read([content], sha256(path), lambda row: [shapes.record(row, reader)])
    else:
        records = readers.read(path)
    if len(records) != 1:
        raise InputError(f"{path}: holds {len(records)} conversations, where one is wanted; ask them all with --data")
    return records


def _parsed(path: Path) -> Any:
    """The JSON of a file; None where it is none, for the reader to say so."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def parse_columns(text: str) -> dict[str, str]:
    """`{"question": "Goal"}` from "question=Goal,image=file". Raises InputError for another form."""
    columns = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise InputError(f"--columns={text}: give OURS=THEIRS, such as question=Goal,image=file")
        if ours.strip() not in COLUMNS:
            raise InputError(f"--columns={text}: there is no {ours.strip()!r}; use some of {', '.join(COLUMNS)}")
        columns[ours.strip()] = theirs.strip()
    return columns
