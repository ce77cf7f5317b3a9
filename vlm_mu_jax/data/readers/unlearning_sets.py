"""Public benchmarks of unlearning that are scored by right answers: MLLMU-Bench's multiple-choice questions."""

from functools import partial
from pathlib import Path
from typing import Any

from vlm_mu_jax.data.readers import files as _files
from vlm_mu_jax.data.readers.dataset import DataSet, joined
from vlm_mu_jax.data.readers.embedded import Embedded, from_parquet, unpack
from vlm_mu_jax.data.readers.files import Row
from vlm_mu_jax.data.readers.rows import RowReader
from vlm_mu_jax.data.readers.tables import column
from vlm_mu_jax.data.readers.utility_sets import LETTER, LETTERS, with_options
from vlm_mu_jax.data.records import Item, Records
from vlm_mu_jax.errors import InputError

_PARTS = {"image": "Image_Textual_Questions", "text": "Pure_Text_Questions"}


def _read(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """The questions of every person, with the person's picture and without. An item's `details` name the "person"."""
    found = []
    for file in files:
        rows, sha256 = _files.load(file, without=() if check_images else ("image", "images"))
        reader = RowReader(file, check_images, folder)
        found.append(reader.read(rows, sha256, lambda row, one=reader: _items(row, one)))
    return joined(found, folder)


def _items(row: Row, reader: RowReader) -> list[Item]:
    person, task = str(column(row, "ID", (str, int))), column(row, "Classification_Task", dict)
    picture = _picture(row, person, reader)
    items = []
    for part, key in _PARTS.items():
        for number, one in enumerate(task.get(key) or ()):
            letters = sorted(letter for letter, text in one["Options"].items() if text)
            choices = [one["Options"][letter] for letter in letters]
            if one["Correct_Answer"] not in letters or letters != list(LETTERS[: len(letters)]):
                raise InputError(f"{key} {number}: Correct_Answer {one['Correct_Answer']!r} is none of {letters}")
            items.append(
                Item(
                    f"{person}:{part}{number}",
                    picture if part == "image" else None,
                    LETTER.replace("{}", with_options(one["Question"], choices)),
                    one["Correct_Answer"],
                    "general",
                    category=part,
                    source="mllmu",
                    details={"choices": choices, "label": letters.index(one["Correct_Answer"]), "person": person},
                )
            )
    return items


def _picture(row: Row, person: str, reader: RowReader) -> str | None:
    """The person's picture, of several the first, unpacked beside the file."""
    if not reader.check_images:
        return None
    value: Any = row.get("image") or next(iter(row.get("images") or ()), None)
    image = from_parquet(person, value)
    return unpack(Embedded(person, image.content), reader.path, reader.root)


_mllmu = partial(
    DataSet,
    task="utility",
    folder="mllmu",
    read=_read,
    count=None,
    at="Hugging Face MLLMMU/MLLMU-Bench",
    needs="download the Parquet files there; they hold the images, which are unpacked beside them when first read",
    embedded=True,
    confirmed=False,
)

SETS = tuple(
    _mllmu(name=f"mllmu_{part}", files=(f"{part.title()}_Set/*.parquet", f"{part}_set/*.parquet"))
    for part in ("full", "test", "retain")
)
