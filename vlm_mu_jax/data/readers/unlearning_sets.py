"""Public benchmarks of unlearning that compare with right answers: MLLMU-Bench's multiple choice, and CLEAR."""

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


_parquet_set = partial(
    DataSet,
    task="utility",
    count=None,
    needs="download the Parquet files there; they hold the images, which are unpacked beside them when first read",
    embedded=True,
    confirmed=False,
)
_mllmu = partial(_parquet_set, folder="mllmu", read=_read, at="Hugging Face MLLMMU/MLLMU-Bench")

# Upstream draws one of them for every picture (somvy/multimodal_unlearning@bb14c96:mm/dataset.py); here the number of
# the row chooses.
_CAPTION_QUESTIONS = (
    "What can you see in this picture?",
    "Tell me about the content of this image",
    "Can you give a description of the image?",
    "What is depicted in the image?",
    "Explain what you observe in the picture.",
    "Describe the image in detail.",
    "What is the main subject of this image?",
    "Can you describe the scene or objects in the image?",
    "What is happening in this image?",
)


def _clear(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """Captions of pictures, and the questions without a picture of the configurations `+tofu`."""
    found = []
    for file in files:
        rows, sha256 = _files.load(file)
        reader = RowReader(file, check_images, folder)
        prefix = f"{file.stem}:" if len(files) > 1 else ""
        found.append(reader.read(rows, sha256, lambda row, one=reader, prefix=prefix: [_clear_item(row, one, prefix)]))
    return joined(found, folder)


def _clear_item(row: Row, reader: RowReader, prefix: str) -> Item:
    key = f"{prefix}{reader.number - 1}"
    if row.get("image") is None:
        question, answer = column(row, "question"), column(row, "answer")
        return Item(key, None, question, answer, "general", category="text", source="clear")
    image, question = reader.any_image(row["image"]), _CAPTION_QUESTIONS[(reader.number - 1) % len(_CAPTION_QUESTIONS)]
    person = {"person": row["name"]} if row.get("name") else {}
    return Item(
        key, image, question, column(row, "caption"), "general", category="image", source="clear", details=person
    )


_clear_set = partial(_parquet_set, folder="clear", read=_clear, at="Hugging Face therem/CLEAR")

SETS = (
    *(
        _mllmu(name=f"mllmu_{part}", files=(f"{part.title()}_Set/*.parquet", f"{part}_set/*.parquet"))
        for part in ("full", "test", "retain")
    ),
    *(
        _clear_set(name=f"clear_{part}", files=(f"{part}+tofu/*.parquet", f"{part}/*.parquet"))
        for part in ("full", "forget01", "forget05", "forget10", "retain90", "retain95", "retain99")
    ),
)
