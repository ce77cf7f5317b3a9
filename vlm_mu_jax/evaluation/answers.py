"""Asks a model many questions and keeps the answers: batched, resumable, with few compiled shapes.

Questions about one image, and all shots of an attack on it, share the beginning of their prompts, which runs once.

Asking and judging are apart: `answer_questions` generates what is missing, `judge_answers` labels what is there, so
judging again never generates again.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import answers_file
from vlm_mu_jax.evaluation.answers_file import Answer, AnswersFile, Condition
from vlm_mu_jax.evaluation.batches import SharedBatch, plan_batches, plan_shared, split_shared
from vlm_mu_jax.evaluation.judges import BatchJudge, Case, Judge, judge_many
from vlm_mu_jax.parallel.distributed import to_host
from vlm_mu_jax.progress import Progress

BLANK = "blank:"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question to ask. `image` is a file, None for text only, or "blank:KIND" for an image without content.

    answer_start: text the answer already starts with; it is part of the answer that is recorded.
    """

    id: str
    text: str
    image: Path | str | None
    condition: Condition = Condition()
    answer_start: str = ""

    @property
    def has_image(self) -> bool:
        return self.image is not None


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A question with its token ids (image placeholders expanded, the answer's start, if there is one, at the end) and
    the names of what it was asked with. begun: how many of the ids are the answer's."""

    question: Question
    ids: tuple[int, ...]
    begun: int
    image_id: str | None
    sha: str

    @property
    def key(self) -> tuple:
        return (self.question.id, self.question.condition, self.image_id, self.sha)


def answer_questions(
    model: Any,
    items: Sequence[Question],
    out_path: str | Path,
    batch_size: int,
    max_new_tokens: int,
    steer: Any = None,
    progress: Progress | None = None,
    label: str = "answers",
    only_these: bool = False,
) -> list[Answer]:
    """The model's greedy answers to `items`, in their order; those that `out_path` already holds are not asked again.

    Where questions have the same image and the same prompt up to its end, that beginning runs once for all of them. Not
    so (each prompt runs whole, with the same answers) under a guard that writes it by the whole prompt (see
    `generate.can_share`), where a template puts the question before the image, and where such questions do not fill a
    batch.

    Args:
      model: what `vlm_mu_jax.load` returns (params, config, processor).
      batch_size: rows of every generated batch; the last one is filled up, so that its shape compiles no program.
      max_new_tokens: bound on the length of an answer.
      steer: the guard's `Steer`, None, or for a guard that decides anew for every batch a function (questions, images)
        -> `Steer`. It gets the batch's rows in order, those that fill it up included; images are pixels per row, as in
        `Processor.pad`, or None for a batch of text-only questions.
      progress: shows progress over the batches, under `label`.
      only_these: the file may hold no answer to another question, so that whoever counts its lines counts these.

    Raises InputError for an image that cannot be read, a prompt longer than the model's positions, or a file that
    breaks `only_these`.
    """
    prompts = [_prompt(model, item, max_new_tokens) for item in items]
    with AnswersFile(out_path) as file:
        if only_these:
            _check_same_questions(file, prompts)
        missing = {prompt.key: prompt for prompt in prompts if prompt.key not in file}
        batches = _batches(model, list(missing.values()), batch_size, max_new_tokens, steer)
        for answers_of_batch in progress(batches, label, len(batches)) if progress and batches else batches:
            file.append(answers_of_batch())
        found = {answer.key: answer for answer in file.answers}
    return [found[prompt.key] for prompt in prompts]


def judge_answers(
    path: str | Path,
    answers: Sequence[Answer],
    judges: Mapping[str, Judge],
    records: Mapping[str, Record],
    again: bool = False,
    images: Mapping[tuple, Path | str | None] | None = None,
    progress: Progress | None = None,
) -> list[Answer]:
    """The answers with the labels of every judge; new labels are written back to the file. `again` replaces old ones.

    `records` maps record ids to records; answers of other records in the file keep what they have. `images` maps
    (record id, condition) to what a judge that sees images is shown. A judge with a cache of its own is always asked:
    its cache, not the file, knows what its verdict was made from.
    """
    labels = {answer.key: dict(answer.labels) for answer in answers}
    for name, judge in judges.items():
        ask = [a for a in answers if again or isinstance(judge, BatchJudge) or name not in a.labels]
        cases = [
            Case(a.question, a.answer, records[a.id], (images or {}).get((a.id, a.condition)), a.image_id) for a in ask
        ]
        for answer, label in zip(ask, judge_many(judge, cases, progress), strict=True):
            labels[answer.key][name] = label.to_dict()
    labelled = {a.key: dataclasses.replace(a, labels=labels[a.key]) for a in answers}
    if any(labelled[a.key].labels != a.labels for a in answers):
        answers_file.rewrite(path, (labelled.get(old.key, old) for old in answers_file.read(path)))
    return [labelled[answer.key] for answer in answers]


def _batches(
    model: Any, prompts: list[_Prompt], batch_size: int, max_new_tokens: int, steer: Any
) -> list[Callable[[], list[Answer]]]:
    """One function per batch, which generates its answers."""
    from vlm_mu_jax.model.generate import can_share

    alone, groups, image_token = prompts, [], model.config.image_token_id
    if can_share(model.config, steer):
        alone, groups = split_shared(prompts, batch_size, image_token)
    plain = [
        functools.partial(_generate, model, rows, width, batch_size, max_new_tokens, steer)
        for width, rows in plan_batches(alone, batch_size)
    ]
    shared = [
        functools.partial(_generate_shared, model, batch, batch_size, max_new_tokens, steer)
        for batch in plan_shared(groups, batch_size, image_token)
    ]
    return plain + shared


def _check_same_questions(file: AnswersFile, prompts: Sequence[_Prompt]) -> None:
    wanted = {prompt.key for prompt in prompts}
    other = next((answer for answer in file.answers if answer.key not in wanted), None)
    if other is not None:
        word = f" with the word {other.condition.word!r}" if other.condition.word else ""
        raise InputError(
            f"{file.path}: holds answers to other questions (such as {other.id}{word}); use another --workdir"
        )


def _prompt(model: Any, question: Question, max_new_tokens: int) -> _Prompt:
    images = [_picture(model.processor, question.image)] if question.has_image else []
    ids, begun = tuple(model.processor.prompt_ids(question.text, images)), 0
    if question.answer_start:
        example = model.processor.example(question.text, question.answer_start, images, ended=False)
        ids = example.ids
        begun = len(ids) - example.answer_start
    limit = model.config.text.max_positions
    if len(ids) + max_new_tokens > limit:
        raise InputError(
            f"question {question.id}: {len(ids)} prompt tokens and --max_new_tokens={max_new_tokens}"
            f" exceed the model's {limit} positions; lower it"
        )
    sha = hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest()
    return _Prompt(question, ids, begun, _image_id(question.image), sha)


def _image_id(image: Path | str | None) -> str | None:
    """A short name of the image's content: it keeps answers apart that were given to different images of one name."""
    if image is None or (isinstance(image, str) and image.startswith(BLANK)):
        return image
    try:
        return hashlib.sha256(Path(image).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{image}: image cannot be read ({error.strerror}); check the data folder") from None


def _generate(
    model: Any, rows: list[_Prompt], width: int, batch_size: int, max_new_tokens: int, steer: Any
) -> list[Answer]:
    """Generates one batch; the rows that fill it up repeat the last one and are dropped."""
    from vlm_mu_jax.model.generate import generate

    full = rows + [rows[-1]] * (batch_size - len(rows))
    pixels = {id(row): _pixels(model.processor, row.question.image) for row in rows if row.question.has_image}
    images = [[pixels[id(row)]] if row.question.has_image else [] for row in full]
    batch = model.processor.pad([list(row.ids) for row in full], images, length=width)
    if callable(steer):
        steer = steer([row.question.text for row in full], images if any(images) else None)
    out = generate(model.params, batch, model.config, max_new_tokens=max_new_tokens, steer=steer)
    return _answers(model, dict(enumerate(rows)), out)


def _generate_shared(model: Any, batch: SharedBatch, batch_size: int, max_new_tokens: int, steer: Any) -> list[Answer]:
    """Generates groups of questions about one image each; what fills them up repeats the last and is dropped."""
    from vlm_mu_jax.model.generate import generate

    size, pad = batch.group_size, model.processor.pad
    count = batch_size // size
    at = [min(i, len(batch.groups) - 1) for i in range(count)]  # which group, of all that are run
    groups = [[group[min(j, len(group) - 1)] for j in range(size)] for group in (batch.groups[i] for i in at)]
    starts = [batch.starts[i] for i in at]
    pixels = [[_pixels(model.processor, group[0].question.image)] for group in batch.groups]
    prefix = pad(
        [list(group[0].ids[:start]) for group, start in zip(groups, starts, strict=True)],
        [pixels[i] for i in at],
        length=batch.prefix_width,
    )
    rest = [list(row.ids[start:]) for group, start in zip(groups, starts, strict=True) for row in group]
    if callable(steer):
        texts = [row.question.text for group in groups for row in group]
        steer = steer(texts, [pixels[i] for i in at for _ in range(size)])
    out = generate(
        model.params,
        pad(rest, length=batch.rest_width),
        model.config,
        max_new_tokens=max_new_tokens,
        steer=steer,
        prefix=prefix,
    )
    rows = {i * size + j: row for i, group in enumerate(batch.groups) for j, row in enumerate(group)}
    return _answers(model, rows, out)


def _answers(model: Any, rows: Mapping[int, _Prompt], out: Any) -> list[Answer]:
    """Answers of the generated rows with these numbers."""
    tokens, lengths = to_host(out.tokens_BG), to_host(out.lengths_B)
    return [
        Answer(
            id=row.question.id,
            condition=row.question.condition,
            image_id=row.image_id,
            prompt_sha=row.sha,
            question=row.question.text,
            answer=_text(model, [*row.ids[len(row.ids) - row.begun :], *tokens[i, : lengths[i]]]),
            tokens=int(lengths[i]),
        )
        for i, row in rows.items()
    ]


def _picture(processor: Any, image: Path | str) -> Any:
    """An image file as it is, a blank image as its pixels."""
    is_blank = isinstance(image, str) and image.startswith(BLANK)
    return processor.blank_pixels(image.removeprefix(BLANK)) if is_blank else image


def _pixels(processor: Any, image: Path | str) -> Any:
    """What `Processor.pixels` makes of an image file or of a blank image."""
    picture = _picture(processor, image)
    return processor.pixels(picture) if picture is image else picture


def _text(model: Any, ids: Sequence[int]) -> str:
    """The decoded answer without the end token."""
    ends = set(model.config.eos_ids)
    return model.processor.decode([int(i) for i in ids if int(i) not in ends]).strip()
