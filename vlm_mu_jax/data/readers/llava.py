"""Reader for LLaVA's conversation JSON (`llava_v1_5_mix665k.json` and files like it).

A row is `{"id", "image" (absent for text only), "conversations": [{"from": "human" | "gpt", "value": text}, ...]}`. The
record takes the first human turn without its `<image>` marks as question and the gpt turn after it as answer.
"""

from collections.abc import Iterator
from pathlib import Path

from vlm_mu_jax.data.readers import rows as _rows
from vlm_mu_jax.data.records import Record, Records
from vlm_mu_jax.errors import InputError

IMAGE_MARK = "<image>"


def read(path: str | Path, check_images: bool = True) -> Records:
    """All records of a LLaVA file, kind `general`. Raises BadRows listing bad rows."""
    content, sha256 = _rows.load(path)
    return from_rows(path, content, sha256, check_images)


def from_rows(path: str | Path, content: list, sha256: str, check_images: bool = True) -> Records:
    """As `read`, for rows that are already loaded."""
    reader = _rows.RowReader(Path(path), check_images)
    return reader.read(content, sha256, lambda row: _records(row, reader))


def _records(row: dict, reader: _rows.RowReader) -> Iterator[Record]:
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):  # the published mix has both
        raise InputError("field 'id' must be text or a number")
    image = None if row.get("image") is None else reader.image(row["image"])
    question, answer = _first_turns(_rows.field(row, "conversations", list))
    if image is None and IMAGE_MARK in question:
        raise InputError("the question has an <image> mark but the row has no image")
    yield Record(str(name), image, question.replace(IMAGE_MARK, "").strip(), answer, "general", "", "llava")


def _first_turns(turns: list) -> tuple[str, str]:
    """The text of the first two turns, which must be human and gpt."""
    if len(turns) < 2:
        raise InputError("a conversation must have a human and a gpt turn")
    texts = []
    for turn, speaker in zip(turns, ("human", "gpt"), strict=False):
        if not isinstance(turn, dict):
            raise InputError("conversations must hold objects")
        if _rows.field(turn, "from") != speaker:
            raise InputError(
                f"the conversation must start with human, then gpt; found {turn['from']!r} where {speaker} belongs"
            )
        texts.append(_rows.field(turn, "value"))
    return texts[0], texts[1]
