"""Requests asked under an image condition, and the labels of their answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlm_mu_jax.data import questions
from vlm_mu_jax.data.images import image_id
from vlm_mu_jax.data.records import Records
from vlm_mu_jax.data.rendering import Context, contexts_of
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import over_length
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, JudgeOptions, Label, choose, judge_many
from vlm_mu_jax.evaluation.questions import dialogues
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.diagnostics import pixels_of
from vlm_mu_jax.steering.guarded_answers import Asked, GuardedAnswer
from vlm_mu_jax.storage.model_folder import Model

JudgeChoice = str | JudgeOptions | Judge | BatchJudge | None  # by name, with options, one's own, or the data's best


def read_requests(data: Records | str | Path) -> Records:
    """The unsafe and safe requests of records, of a data file, or of a data folder's `text_harm.json`.

    Of a file's conversations the request is the last question, behind the earlier turns. Of given records it is the
    question that each is `at` (`data.turns.cut` chooses it).

    Raises InputError when there are none.
    """
    if isinstance(data, Records):
        source = data.source
        items = [record.at_question(record.at + 1) for record in data.of_kind("unsafe", "safe")]
    else:
        source = request_file(data)
        data = questions.read(source)
        items = list(dialogues.at_last(data.of_kind("unsafe", "safe")))
    if not items:
        raise InputError(f"{source}: holds neither unsafe nor safe requests; check the file")
    return dataclasses.replace(data, items=tuple(items))


def request_file(data: str | Path) -> Path:
    """The request file itself, or that of a data folder."""
    path = Path(data)
    return path / "text_harm.json" if path.is_dir() else path


def fitting(model: Model, requests: Records, new_tokens: int) -> Records:
    """The requests whose prompts leave room for an answer of `new_tokens` within the model's positions, in words, with
    a blank image and with their own. The others stand in `Records.skipped`, with the reason.

    Raises InputError when none does.
    """
    sees = model.config.vision is not None
    blank = [model.processor.blank_pixels()] if sees else []
    kept, skipped = [], list(requests.skipped)
    for number, record in enumerate(requests, start=1):
        context = Context.of(record)
        prompts = [(blank, context and context.without_images(len(blank)))]
        prompts += [(requests.image_paths(record), context)] if sees and record.images else []
        lengths = (len(model.processor.prompt_ids(record.question, *prompt)) for prompt in prompts)
        if too_long := over_length(model, max(lengths), new_tokens):
            skipped.append((number, f"(id {record.id!r}) {too_long}"))
        else:
            kept.append(record)
    if not kept:
        raise InputError(f"{requests.source}: row {skipped[0][0]} {skipped[0][1]}, and so do all others")
    return dataclasses.replace(requests, items=tuple(kept), skipped=tuple(skipped))


def left_out_lines(skipped: Sequence[tuple[int, str]]) -> list[str]:
    """What a table says of requests that were not asked: nothing, or one line."""
    return (
        [f"not asked: {len(skipped)} of the requests, such as row {skipped[0][0]} {skipped[0][1]}"] if skipped else []
    )


def judge_of(judge: JudgeChoice, requests: Records) -> Judge | BatchJudge:
    """The judge whose labels count. The judge `oracle` reads its file beside that of the requests."""
    return choose(judge, requests.source.parent).counted


def shown(model: Model, records: Records, condition: str, blank_HWC: np.ndarray | None) -> Asked:
    """The records' questions under one condition. Earlier turns stand before them in all of them.

    Args:
      condition: "own": the record's images, where they stand. The others leave the images of the conversation out, and
        have in front of the question "other": the images of the record half a file further on, "blank": `blank_HWC`,
        "none": no image.
    """
    asked = [record.question for record in records]
    if condition == "none":
        return Asked(asked, None, contexts_of(records, 0))
    if condition == "blank":
        return Asked(asked, [blank_HWC] * len(records), contexts_of(records, 1))
    own, contexts = pixels_of(model, records), contexts_of(records)
    if condition == "own":
        return Asked(asked, own, contexts)
    half = len(own) // 2
    others = own[half:] + own[:half]
    return Asked(asked, others, [c and c.without_images(len(o)) for c, o in zip(contexts, others, strict=True)])


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
        path = next(iter(records.image_paths(record)), None) if own_image else None
        cases.append(Case(record.question, made.text, record, path, None if path is None else image_id(path)))
    return judge_many(judge, cases, progress)


def blank_of(model: Model, kind: str) -> np.ndarray | None:
    """Pixels HWC of the blank image of this kind (white, black, mean, noise); None for a model without vision."""
    return None if model.config.vision is None else model.processor.blank_pixels(kind)
