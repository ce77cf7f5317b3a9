"""Public safety sets of several turns or several images: SafeMT, MTMCS-Bench, MMDS, MIS.

Each says in its items' `details` what its own numbers need: "round" and "asked" (SafeMT), "pair" (MTMCS-Bench).
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.readers import files as _files
from vlm_mu_jax.data.readers import messages as spoken
from vlm_mu_jax.data.readers.dataset import DataSet, anywhere, joined
from vlm_mu_jax.data.readers.files import Row
from vlm_mu_jax.data.readers.rows import RowReader
from vlm_mu_jax.data.readers.tables import column
from vlm_mu_jax.data.records import ImagePart, Item, Records, Turn
from vlm_mu_jax.errors import InputError

_NO_ANSWER = Turn("assistant", ("",))  # between questions that the model answers itself

Make = Callable[[Row, RowReader, Path], list[Item]]


def _read(make: Make, files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """The items of every row. Rows that upstream's files have wrong are left out and stand in `Records.skipped`."""
    parts = []
    for file in files:
        rows, sha256 = _files.load(file)
        reader = RowReader(file, check_images, folder, "skip")
        parts.append(reader.read(rows, sha256, lambda row, one=reader, file=file: make(row, one, file)))
    return joined(parts, folder)


def _safemt(row: Row, reader: RowReader, file: Path) -> list[Item]:
    """The last question of a ready dialogue, behind the file's own answers, as upstream asks it."""
    turns_in_file = int(re.match(r"\d+", file.name)[0])
    image = reader.image(column(row, "image_path"), ("Data", ""))
    talk = spoken.parse(column(row, "dialogue", list))
    _, turns = spoken.to_turns(talk, [image], lambda path: path, reader.note)
    if turns[-1].role != "user":
        raise InputError("the dialogue ends with an answer")
    name = str(column(row, "id"))
    item = Item(
        f"{turns_in_file}:{name}",
        turns=turns,
        kind="unsafe",
        category=str(row.get("scenario") or ""),
        source="safemt",
        details={"round": turns_in_file, "asked": name, "plain_question": str(row.get("question") or "")},
    )
    return [item.at_question(-1)]


def _mtmcs(with_image: bool, row: Row, reader: RowReader, file: Path) -> list[Item]:
    """The unsafe and the safe dialogue of a row; they share all but the turn that tells what is meant."""
    asked = column(row, "multimodal_dialogue" if with_image else "unimodal_dialogue", dict)
    image = ""
    if with_image and reader.check_images:
        image = reader.any_image(row.get("image"))
    name, items = str(column(row, "id", (str, int))), []
    for kind in ("unsafe", "safe"):
        texts = [asked.get(f"{kind}_r{turn}") or asked.get(f"r{turn}") or "" for turn in (1, 2, 3)]
        first, *later = [text for text in texts if text]
        parts = (ImagePart(image), first) if image else (first,)
        turns = [Turn("user", parts)]
        for text in later:
            turns += [_NO_ANSWER, Turn("user", (text,))]
        items.append(Item(f"{name}:{kind}", turns=turns, kind=kind, source="mtmcs", details={"pair": name}))
    return items


def _mmds(split: str, row: Row, reader: RowReader, file: Path) -> list[Item]:
    """A dialogue of the split, with the images of each turn in front of its words."""
    if row.get("set") != split:
        return []
    turns = []
    for entry in column(row, "conversations", list):
        role = spoken.ROLES.get(str(entry.get("role", entry.get("from", ""))).lower())
        shown = entry.get("image") or []
        paths = [reader.image(path) for path in ([shown] if isinstance(shown, str) else shown)]
        text = str(entry.get("content", entry.get("value", ""))).replace(spoken.MARK, "").strip()
        turns.append(Turn(role or "", (*map(ImagePart, paths), text)))
    rating = str(row.get("user_rating", row.get("assistant_rating", ""))).lower()
    if rating not in ("safe", "unsafe"):
        raise InputError(f"user_rating must be Safe or Unsafe, not {rating[:40]!r}")
    dimension = str(row.get("user_dimension") or "")
    return [Item(str(column(row, "id", (str, int))), turns=turns, kind=rating, category=dimension, source="mmds")]


def _mis(row: Row, reader: RowReader, file: Path) -> list[Item]:
    """A question about two images."""
    paths = [reader.image(column(row, name), ("mis_test", "")) for name in ("image_path1", "image_path2")]
    name = str(row.get("id", reader.number - 1))
    turn = Turn("user", (*map(ImagePart, paths), column(row, "question")))
    return [Item(name, turns=(turn,), kind="unsafe", category=str(row.get("category") or ""), source="mis")]


def _set(name: str, folder: str, files: Sequence[str], make: Make, at: str, needs: str, **fields: Any) -> DataSet:
    return DataSet(
        name=name,
        task="safety",
        folder=folder,
        files=tuple(files),
        read=partial(_read, make),
        at=at,
        needs=needs,
        **fields,
    )


_mtmcs_set = partial(
    _set,
    folder="mtmcs",
    at="franciscoliu/MTMCS-Bench",
    needs="put the splits' Parquet files there; upstream publishes the code that reads them, and the data on request",
    count=None,
    embedded=True,
    confirmed=False,
)

SETS = (
    _set(
        "safemt",
        "safemt",
        ("Data/*_turn.json", "*_turn.json"),
        _safemt,
        "Happy-Corpse/SafeMT",
        "clone the repository there",
        count=10_000,
    ),
    *(
        _mtmcs_set(
            name=f"mtmcs_type_{split}{'' if with_image else '_text'}",
            files=(f"data/type_{split}-*.parquet", f"type_{split}*.parquet", f"type_{split}*.json"),
            make=partial(_mtmcs, with_image),
        )
        for split in ("a", "b")
        for with_image in (True, False)
    ),
    _set(
        "mmds_test",
        "mmds",
        ("mmds.jsonl",),
        partial(_mmds, "test"),
        "Hugging Face leost233/MMDS",
        "download mmds.jsonl and images/ there",
        count=330,
        confirmed=False,
    ),
    *(
        _set(
            f"mis_{level}",
            "mis",
            anywhere(f"mis_test/mis_{level}.json"),
            _mis,
            "DripNowhy/MIS (data: Hugging Face Tuwhy/MIS_Test)",
            "put mis_test/ there",
            count=None,
            confirmed=False,
        )
        for level in ("easy", "hard")
    ),
)
