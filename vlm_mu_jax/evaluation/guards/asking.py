"""Requests asked under an image condition, and the labels of their answers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_mu_jax.data import questions
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, JudgeOptions, Label, choose, judge_many
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guarded_answers import GuardedAnswer
from vlm_mu_jax.storage.model_folder import Model

JudgeChoice = str | JudgeOptions | Judge | BatchJudge | None  # by name, with options, one's own, or the data's best


def read_requests(data: Records | str | Path) -> Records:
    """The unsafe and safe requests of records, of a data file, or of a data folder's `text_harm.json`.

    Raises InputError when there are none.
    """
    if isinstance(data, Records):
        found, source = data.of_kind("unsafe", "safe"), data.source
    else:
        source = request_file(data)
        found = questions.lone(questions.read(source)).of_kind("unsafe", "safe")
    if not len(found):
        raise InputError(f"{source}: holds neither unsafe nor safe requests; check the file")
    return found


def request_file(data: str | Path) -> Path:
    """The request file itself, or that of a data folder."""
    path = Path(data)
    return path / "text_harm.json" if path.is_dir() else path


def judge_of(judge: JudgeChoice, requests: Records) -> Judge | BatchJudge:
    """The judge whose labels count. The judge `oracle` reads its file beside that of the requests."""
    return choose(judge, requests.source.parent).counted


def images_of(model: Model, records: Records, condition: str, blank_HWC: np.ndarray | None) -> list | None:
    """Pixels for every record under one condition.

    Args:
      condition: "own": the record's images, None where it has none. "other": those of the record half a file further
        on. "blank": `blank_HWC`. "none": no image.

    Returns:
      Pixels HWC, a list of them, or None per record. None for the condition "none".
    """
    if condition == "none":
        return None
    if condition == "blank":
        return [blank_HWC] * len(records)
    read = [[model.processor.pixels(path) for path in records.image_paths(record)] for record in records]
    own = [pixels if len(pixels) > 1 else next(iter(pixels), None) for pixels in read]
    half = len(own) // 2 if condition == "other" else 0
    return own[half:] + own[:half]


def labels_of(
    judge: Judge | BatchJudge,
    records: Records,
    answers: Sequence[GuardedAnswer],
    own_image: bool = False,
    progress: Progress | None = None,
) -> list[Label]:
    """A judge's labels of the answers to these records.

    Args:
      own_image: the records were asked with their own image, which is shown to a judge that sees images.
    """
    cases = []
    for record, made in zip(records, answers, strict=True):
        path = records.image_path(record) if own_image and record.image is not None else None
        image_id = None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        cases.append(Case(record.question, made.text, record, path, image_id))
    return judge_many(judge, cases, progress)


def blank_of(model: Model, kind: str) -> np.ndarray | None:
    """Pixels HWC of the blank image of this kind (white, black, mean, noise); None for a model without vision."""
    return None if model.config.vision is None else model.processor.blank_pixels(kind)
