"""Public safety sets of 2024 and later: JailBreakV-28K, HoliSafe-Bench, SafeEraser."""

from functools import partial
from pathlib import Path

from vlm_mu_jax.data.readers import files as _files
from vlm_mu_jax.data.readers.dataset import DataSet, anywhere, joined, table
from vlm_mu_jax.data.readers.files import Row
from vlm_mu_jax.data.readers.rows import RowReader
from vlm_mu_jax.data.readers.tables import Table, column
from vlm_mu_jax.data.records import Item, Records
from vlm_mu_jax.errors import InputError

_JAILBREAKV = Table(
    question="jailbreak_query",
    id="id",
    image="image_path",
    category=("policy", "format"),
    folders=("JailBreakV_28K", ""),
    details=lambda row: {"plain_question": column(row, "redteam_query"), "format": column(row, "format")},
)
# SafeEraser's harmless questions about a harmful image, two about its words and two about the picture.
_HARMLESS = tuple(f"UnharmPair_{about}{i}" for about in ("text", "image") for i in (1, 2))


def _holisafe_kind(row: Row) -> str:
    """By the last letter of `type`, whose three letters say whether image, text and both together are safe."""
    code = column(row, "type").strip().upper()
    if code[-1:] not in ("S", "U"):
        raise InputError(f"type must end with S or U, not {code[:20]!r}")
    return "safe" if code[-1] == "S" else "unsafe"


_HOLISAFE = Table(
    question="query",
    id="id",
    image="image",
    kind=_holisafe_kind,
    category=("category", "subcategory"),
    folders=("images", ""),
    details=lambda row: {"type": column(row, "type")},
)


def _safeeraser(part: str, files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """One part of every row: "forget", the harmful questions about their image; "over", the same questions about a
    harmless one; "retain", harmless questions about the harmful image."""
    found = []
    for file in files:
        rows, sha256 = _files.load(file)
        reader = RowReader(file, check_images, folder)
        found.append(reader.read(rows, sha256, lambda row, one=reader, stem=file.stem: _items(part, row, one, stem)))
    return joined(found, folder)


def _items(part: str, row: Row, reader: RowReader, stem: str) -> list[Item]:
    image = reader.image(column(row, "SDImage_path" if part == "over" else "image_path"), ("", "dataset", "images"))
    about = {"category": str(row.get("category") or stem), "source": f"safeeraser/{part}"}
    if part == "retain":
        pairs = [(row[key]["Question"], row[key].get("Prediction", "")) for key in _HARMLESS if row.get(key)]
    else:
        pairs = [(pair["question"], "") for pair in column(row, "unsafe_pairs", list)]
    kind = "unsafe" if part == "forget" else "safe"
    details = {"over_forgetting": True} if part == "over" else {}
    return [
        Item(f"{stem}:{reader.number}:{i}", image, question, answer, kind, **about, details=details)
        for i, (question, answer) in enumerate(pairs)
    ]


_safeeraser_set = partial(
    DataSet,
    task="safety",
    folder="safeeraser",
    files=("test/*.json", "val/*.json", "*.json"),
    count=None,
    at="yuu250/SafeEraser",
    needs="put the evaluation files (JSON lists) and their images there",
    confirmed=False,
)

SETS = (
    *(
        DataSet(
            name=f"jailbreakv_{name}",
            task="safety",
            folder="jailbreakv",
            files=anywhere(f"JailBreakV_28K/{file}.csv"),
            read=table(_JAILBREAKV),
            count=count,
            at="Hugging Face JailbreakV-28K/JailBreakV-28k",
            needs="put JailBreakV_28K/ with its images there",
            confirmed=False,
        )
        for name, file, count in (("28k", "JailBreakV_28K", 28_000), ("mini", "mini_JailBreakV_28K", 280))
    ),
    DataSet(
        name="holisafe",
        task="safety",
        folder="holisafe",
        files=("holisafe_bench.json",),
        read=table(_HOLISAFE),
        count=4_031,
        at="Hugging Face etri-vilab/holisafe-bench",
        needs="put holisafe_bench.json and images/ there",
        confirmed=False,
    ),
    *(
        _safeeraser_set(name=f"safeeraser_{part}", read=partial(_safeeraser, part))
        for part in ("forget", "over", "retain")
    ),
)
