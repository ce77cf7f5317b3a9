"""The public utility sets: their files, the prompt that is asked, and what their scorers need.

`Item.details` by set: `answers` (VQAv2, TextVQA, VizWiz), `choices` and `label` (ScienceQA, MMBench), `label` (POPE,
MME), `structural` (GQA), `reference` and `capability` (MM-Vet), `group` (MME: the image's pair; MMBench: the rotations
of one question). Prompts are those of LLaVA (haotian-liu/LLaVA@c121f04:docs/Evaluation.md); they decide the score.
"""

import dataclasses
from functools import partial
from pathlib import Path

from vlm_mu_jax.data.readers import files as _files
from vlm_mu_jax.data.readers import tables
from vlm_mu_jax.data.readers.dataset import DataSet, joined, table
from vlm_mu_jax.data.readers.embedded import Embedded, from_base64
from vlm_mu_jax.data.readers.files import KEY, Row
from vlm_mu_jax.data.readers.tables import Table, column
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError

SHORT = "{}\nAnswer the question using a single word or phrase."
LETTER = "{}\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDE"
_ROTATION = 1_000_000  # MMBench adds this to the index of every further rotation of a question
MME_PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def with_options(question: str, choices: list[str], hint: str = "") -> str:
    """Hint, question, and one line `A. choice` for each choice."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([*([hint] if hint else []), question, *lines])


def _people(row: Row) -> list[str]:
    """The answers of the ten people, in the forms {"answer": text} and text."""
    answers = column(row, "answers", list)
    texts = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError("answers must be a list of texts")
    return texts


def _vqav2(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """Questions joined with their annotations, by question_id."""
    other = files[0].with_name(files[0].name.replace("_questions.json", "_annotations.json").replace("OpenEnded_", ""))
    rows, _ = _files.load(other, "annotations")
    annotations = {row.get("question_id"): row for row in rows if isinstance(row, dict)}
    split = files[0].stem.split("_")[-2]  # val2014

    def annotation(row: Row) -> Row:
        found = annotations.get(column(row, "question_id", int))
        if found is None:
            raise InputError(f"question_id {row['question_id']} has no annotation in {other.name}")
        return found

    one = Table(
        question="question",
        id="question_id",
        kind="general",
        ask=SHORT,
        under="questions",
        image=lambda row: f"{split}/COCO_{split}_{column(row, 'image_id', int):012d}.jpg",
        answer=lambda row: str(annotation(row).get("multiple_choice_answer", "")),
        details=lambda row: {"answers": _people(annotation(row)), "type": annotation(row).get("answer_type", "")},
    )
    return tables.read(one, files[0], folder, name, check_images)


def _scienceqa(only_images: bool, files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """The test problems of `pid_splits.json`, in its order."""
    problems = _files.load_object(files[0])
    wanted = _files.load_object(files[0].with_name("pid_splits.json")).get("test")
    if not isinstance(wanted, list) or not all(pid in problems for pid in wanted):
        raise InputError(f"{files[0].with_name('pid_splits.json')}: its test list does not fit problems.json")
    rows = [{KEY: pid, **problems[pid]} for pid in wanted if problems[pid].get("image") or not only_images]
    one = Table(
        question=_scienceqa_question,
        id=KEY,
        kind="general",
        ask=LETTER,
        category=("subject", "topic"),
        image=lambda row: f"images/test/{row[KEY]}/{row['image']}" if row.get("image") else None,
        folders=("", "data/scienceqa"),
        answer=lambda row: LETTERS[column(row, "answer", int)],
        details=lambda row: {"choices": row["choices"], "label": column(row, "answer", int)},
    )
    _, sha256 = _files.load(files[0])
    return tables.from_rows(one, rows, sha256, files[0], folder, name, check_images)


def _scienceqa_question(row: Row) -> str:
    """Context, question, options, as LLaVA's scripts/convert_sqa_to_llava_base_prompt.py writes its "CQM" prompt."""
    choices = zip(LETTERS, column(row, "choices", list), strict=False)
    options = " ".join(f"({letter}) {choice}" for letter, choice in choices)
    context = (row.get("hint") or "").strip() or "N/A"
    return f"Context: {context}\nQuestion: {column(row, 'question')}\nOptions: {options}".replace("  ", " ").strip()


def _mme(files: list[Path], folder: Path, name: str, check_images: bool) -> Records:
    """One text file per image, two lines `question TAB Yes|No`; the image lies beside it, or in `../images`."""
    parts = []
    for file in files:
        beside = file.parent.parent / "images" if file.parent.name == "questions_answers_YN" else file.parent
        category = beside.parent.name if beside.name == "images" else beside.name
        if category not in MME_PERCEPTION + MME_COGNITION:
            continue  # the tool's own folders
        found = [path for kind in (".jpg", ".png") if (path := beside / f"{file.stem}{kind}").is_file()]
        image = str((found or [beside / f"{file.stem}.jpg"])[0].relative_to(folder))
        one = _mme_table(image, category, f"{category}/{file.stem}")
        part = tables.read(one, file, folder, name, check_images, f"{category}/{file.stem}#")
        items = tuple(dataclasses.replace(item, category=category) for item in part)
        parts.append(dataclasses.replace(part, items=items))
    if not parts:
        raise InputError(f"{folder}: holds no MME category folder ({', '.join(MME_PERCEPTION[:3])}, ...)")
    return joined(parts, folder)


def _mme_table(image: str, category: str, group: str) -> Table:
    """LLaVA asks these with its own closing line instead of "Please answer yes or no."."""
    return Table(
        question=lambda row: _mme_line(row)[0].replace("Please answer yes or no.", "").strip(),
        id=KEY,
        kind="general",
        ask=SHORT,
        answer=lambda row: _mme_line(row)[1],
        image=lambda row: image,
        details=lambda row: {"label": _mme_line(row)[1].lower(), "group": group, "category": category},
    )


def _mme_line(row: Row) -> tuple[str, str]:
    question, tab, answer = row[_files.LINE].rpartition("\t")
    if not tab or answer.strip().lower() not in ("yes", "no"):
        raise InputError("a line must be: question, tab, Yes or No")
    return question.strip(), answer.strip()


def _mmbench_choices(row: Row) -> list[str]:
    """The options in order up to the first empty one."""
    choices = []
    for letter in LETTERS[:4]:
        if (row.get(letter) or "").strip().lower() in ("", "nan", "none"):
            break
        choices.append(row[letter])
    return choices


def _mmbench_image(row: Row) -> Embedded:
    return from_base64(column(row, "index"), column(row, "image"))


def _mmbench_details(row: Row) -> dict:
    choices, answer = _mmbench_choices(row), column(row, "answer")
    if answer not in LETTERS[: len(choices)]:
        raise InputError(f"answer {answer!r} is none of the options; the test split has no answers, take dev")
    index = int(column(row, "index"))
    label, group = LETTERS.index(answer), str(index % _ROTATION)
    return {"choices": choices, "label": label, "group": group, "rotation": index >= _ROTATION}


def _none(text: str | None) -> str:
    return "" if (text or "").strip().lower() in ("nan", "none") else (text or "")


_MMBENCH = Table(
    question=lambda row: with_options(column(row, "question"), _mmbench_choices(row), _none(row.get("hint"))),
    id="index",
    kind="general",
    ask=LETTER,
    category=("category",),
    answer="answer",
    image=_mmbench_image,
    heavy=("image",),
    details=_mmbench_details,
)
_TEXTVQA = Table(
    question="question",
    id="question_id",
    kind="general",
    ask=SHORT,
    under="data",
    image=lambda row: f"train_images/{column(row, 'image_id')}.jpg",
    details=lambda row: {"answers": _people(row)},
)
_VIZWIZ = Table(
    question="question",
    id="image",
    image="image",
    folders=("val", ""),
    kind="general",
    ask="{}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase.",
    details=lambda row: {"answers": _people(row), "type": str(row.get("answer_type", ""))},
)
_GQA = Table(
    question="question",
    id=KEY,
    kind="general",
    ask=SHORT,
    answer="answer",
    image=lambda row: f"images/{column(row, 'imageId')}.jpg",
    folders=("", "data"),
    details=lambda row: {"structural": column(row, "types", dict).get("structural", "")},
)
_POPE = Table(
    question="text",
    id="question_id",
    image="image",
    folders=("val2014", ""),
    kind="general",
    answer="label",
    ask=SHORT,
    details=lambda row: {"label": column(row, "label")},
)
_MMVET = Table(
    question="question",
    id=KEY,
    image="imagename",
    folders=("images", ""),
    kind="general",
    answer="answer",
    details=lambda row: {"capability": column(row, "capability", list)},
)

_COCO = "the COCO images into val2014/"


def _pope(kind: str) -> DataSet:
    name = f"coco_pope_{kind}.json"
    return DataSet(
        name=f"pope_{kind}",
        task="utility",
        folder="pope",
        files=(f"output/coco/{name}", f"coco/{name}", name),
        read=table(_POPE),
        count=3_000,
        at="AoiDragon/POPE",
        needs=f"clone the repository there, {_COCO}",
    )


_scienceqa_set = partial(
    DataSet,
    task="utility",
    folder="scienceqa",
    files=("problems.json", "data/scienceqa/problems.json"),
    at="lupantech/ScienceQA",
    needs="put problems.json, pid_splits.json and images/ there",
)

SETS = (
    DataSet(
        name="vqav2",
        task="utility",
        folder="vqav2",
        files=("v2_OpenEnded_mscoco_val2014_questions.json",),
        read=_vqav2,
        count=214_354,
        at="visualqa.org",
        needs=f"put the validation questions and annotations there, {_COCO}",
    ),
    DataSet(
        name="textvqa",
        task="utility",
        folder="textvqa",
        files=("TextVQA_0.5.1_val.json",),
        read=table(_TEXTVQA),
        count=5_000,
        at="textvqa.org",
        needs="put TextVQA_0.5.1_val.json and train_images/ of train_val_images.zip there",
    ),
    DataSet(
        name="vizwiz",
        task="utility",
        folder="vizwiz",
        files=("val.json", "Annotations/val.json"),
        read=table(_VIZWIZ),
        count=4_319,
        at="vizwiz.org",
        needs="put val.json of Annotations.zip and the folder val/ there",
        confirmed=False,
    ),
    _scienceqa_set(name="scienceqa", read=partial(_scienceqa, False), count=4_241),
    _scienceqa_set(name="scienceqa_img", read=partial(_scienceqa, True), count=2_017),
    DataSet(
        name="gqa",
        task="utility",
        folder="gqa",
        files=("testdev_balanced_questions.json", "data/testdev_balanced_questions.json"),
        read=table(_GQA),
        count=12_578,
        at="cs.stanford.edu/people/dorarad/gqa",
        needs="put testdev_balanced_questions.json and images/ there",
        confirmed=False,
    ),
    _pope("random"),
    _pope("popular"),
    _pope("adversarial"),
    DataSet(
        name="mme",
        task="utility",
        folder="mme",
        files=("MME_Benchmark_release_version/**/*.txt", "*/*.txt"),
        read=_mme,
        count=2_374,
        at="BradyFU/Awesome-Multimodal-Large-Language-Models (Evaluation)",
        needs="put MME_Benchmark_release_version there",
    ),
    DataSet(
        name="mmvet",
        task="utility",
        folder="mmvet",
        files=("mm-vet.json", "mm-vet/mm-vet.json"),
        read=table(_MMVET),
        count=218,
        at="yuweihao/MM-Vet",
        needs="unpack mm-vet.zip there",
    ),
    DataSet(
        name="mmbench",
        task="utility",
        folder="mmbench",
        files=("mmbench_dev_20230712.tsv",),
        read=table(_MMBENCH),
        count=4_377,
        at="open-compass/MMBench",
        needs="put mmbench_dev_20230712.tsv there",
        embedded=True,
    ),
)
