"""Asks a model many questions and keeps the answers: batched, resumable, with few compiled shapes.

Questions about one image, and all shots of an attack on it, share the beginning of their prompts, which runs once.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_mu_jax.data.images import image_id
from vlm_mu_jax.data.prompts import Processor, bucket
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.answers_file import TOO_LONG, Answer, AnswersFile, AnswersInMemory
from vlm_mu_jax.evaluation.answers.batches import SharedBatch, plan_batches, plan_shared, split_shared
from vlm_mu_jax.evaluation.questions.dialogues import turn_by_turn
from vlm_mu_jax.evaluation.questions.question import BLANK, Question
from vlm_mu_jax.parallel.activations import even_rows
from vlm_mu_jax.parallel.distributed import to_host
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model

if TYPE_CHECKING:
    from vlm_mu_jax.data.rendering import Context
    from vlm_mu_jax.model.steer import Steer

# (questions, images, contexts) -> what steers the batch
BatchSteer = Callable[[Sequence[str], Sequence[Any] | None, Sequence["Context | None"]], "Steer"]


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A question as token ids.

    ids: the prompt with its image placeholders expanded, and the answer's start at the end. begun: how many of the ids
    belong to the answer's start. image_id, sha: names of the image's content and of the ids. too_long: why it cannot be
    asked; "" where it can.
    """

    question: Question
    ids: tuple[int, ...]
    begun: int
    image_id: str | None
    sha: str
    too_long: str

    @property
    def key(self) -> tuple:
        return (self.question.id, self.question.condition, self.image_id, self.sha)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Answers contrasted with those to the same questions in other words; see `generate.generate_contrasted`.

    alpha: weight of the difference. partner: (id, condition) of a question -> the question in the other words.
    """

    alpha: float
    partner: Mapping[tuple, Question]


@dataclasses.dataclass(frozen=True)
class AnswerOptions:
    """How questions are answered.

    batch_size: rows of every generated batch, rounded up to what the model's mesh splits evenly. The last batch is
      filled up, so that its shape needs no new program.
    max_new_tokens: bound on the length of an answer.
    steer: the guard's `Steer`, or None. A guard that decides anew for every batch is a function
      (questions, images, contexts) -> `Steer`; it gets the batch's rows in order, those that fill it up included.
      `images` are pixels per row, as in `Processor.pad`, or None for a batch of text-only questions.
    progress: shows progress over the batches.
    is_share: the questions are a share of those that are asked, so that all of them may be too long by chance.
    contrast: what the answers are contrasted with, or None.
    """

    batch_size: int = 16
    max_new_tokens: int = 256
    steer: "Steer | BatchSteer | None" = None
    progress: Progress | None = None
    is_share: bool = False
    contrast: Contrast | None = None


def answer_questions(
    model: Model,
    questions: Sequence[Question],
    path: str | Path | None = None,
    options: AnswerOptions = AnswerOptions(),
    *,
    label: str = "answers",
    only_these: bool = False,
) -> list[Answer]:
    """The model's greedy answers to `questions`, in their order.

    Questions with the same image and the same prompt up to the image's end share that beginning, which runs once for
    all of them. Three cases run every prompt whole instead, with the same answers: a guard that writes into the prompt
    (see `generate.can_share`), a chat template that puts the question before the image, and too few such questions to
    fill a batch.

    The questions of a dialogue that are asked behind the model's own answers are asked turn by turn, those of all
    dialogues together.

    A prompt that leaves no room for an answer within the model's positions is not asked: nothing is cut off a question,
    which would then be another one. `Answer.left_out` says so, and judges give no verdict on it.

    Args:
      model: what `vlm_mu_jax.load` returns.
      path: an answers file. Answers that it holds are not generated again; new ones are appended batch by batch, so
        that a killed run goes on. Without a file the answers stay in memory.
      label: name of the progress bar.
      only_these: the file may hold no answer to any other question. For files whose lines are counted later. In the
        end it has the questions' order.

    Raises:
      InputError: an image cannot be read, every prompt is too long, or the file holds answers to other questions
        against `only_these`.
    """
    if any(question.own_history for question in questions):
        answers = turn_by_turn(
            questions, lambda some, turn: answer_questions(model, some, path, options, label=f"{label}, turn {turn}")
        )
        if path is not None:
            with AnswersFile(path) as kept:
                kept.arrange(answer.key for answer in answers)
        return answers
    options = dataclasses.replace(options, batch_size=even_rows(model.params, options.batch_size))
    prompts = [_prompt(model, question, options.max_new_tokens) for question in questions]
    if prompts and not options.is_share and all(one.too_long and one.question.condition.turn < 2 for one in prompts):
        raise InputError(f"question {prompts[0].question.id}: {prompts[0].too_long}; lower --max_new_tokens")
    with AnswersFile(path) if path is not None else AnswersInMemory() as kept:
        if only_these:
            _check_same_questions(kept, prompts)
        missing = {prompt.key: prompt for prompt in prompts if prompt.key not in kept}
        kept.append(_answer(prompt) for prompt in missing.values() if prompt.too_long)
        batches = _batches(model, [prompt for prompt in missing.values() if not prompt.too_long], options)
        progress = options.progress if batches else None
        for answers_of_batch in progress(batches, label, len(batches)) if progress else batches:
            kept.append(answers_of_batch())
        if only_these:
            kept.arrange(prompt.key for prompt in prompts)
        found = {answer.key: answer for answer in kept.answers}
    return [found[prompt.key] for prompt in prompts]


def _batches(model: Model, prompts: list[_Prompt], options: AnswerOptions) -> list[Callable[[], list[Answer]]]:
    """One function per batch, which generates its answers."""
    from vlm_mu_jax.model.generate import can_share

    alone, groups, image_token = prompts, [], model.config.image_token_id
    if options.contrast is None and can_share(model.config, options.steer):
        alone, groups = split_shared(prompts, options.batch_size, image_token)
    plain = [
        functools.partial(_generate, model, rows, width, options)
        for width, rows in plan_batches(alone, options.batch_size)
    ]
    shared = [
        functools.partial(_generate_shared, model, batch, options)
        for batch in plan_shared(groups, options.batch_size, image_token)
    ]
    return plain + shared


def _check_same_questions(file: AnswersFile | AnswersInMemory, prompts: Sequence[_Prompt]) -> None:
    wanted = {prompt.key for prompt in prompts}
    other = next((answer for answer in file.answers if answer.key not in wanted), None)
    if other is not None:
        word = f" with the word {other.condition.word!r}" if other.condition.word else ""
        raise InputError(
            f"{file.path}: holds answers to other questions (such as {other.id}{word}); use another --workdir"
        )


def _prompt(model: Model, question: Question, max_new_tokens: int) -> _Prompt:
    images = [_picture(model.processor, image) for image in question.images]
    ids, begun = tuple(model.processor.prompt_ids(question.text, images, question.context)), 0
    if question.answer_start:
        example = model.processor.example(
            question.text, question.answer_start, images, ended=False, context=question.context
        )
        ids = example.ids
        begun = len(ids) - example.answer_start
    sha = hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest()
    too_long = over_length(model, len(ids), max_new_tokens)
    return _Prompt(question, ids, begun, _images_id(question.images), sha, too_long)


def over_length(model: Model, tokens: int, new_tokens: int) -> str:
    """What is wrong with a prompt of so many tokens that does not fit the model's positions; "" where it does."""
    limit = model.config.text.max_positions
    if tokens + new_tokens <= limit:
        return ""
    return f"{TOO_LONG}: {tokens} prompt tokens and {new_tokens} new ones exceed the model's {limit} positions"


def _images_id(images: Sequence[Path | str]) -> str | None:
    """A short name of the images' contents; None without images."""
    names = [_image_id(image) for image in images]
    return "+".join(names) or None


def _image_id(image: Path | str) -> str:
    return image if isinstance(image, str) and image.startswith(BLANK) else image_id(image)


def _generate(model: Model, rows: list[_Prompt], width: int, options: AnswerOptions) -> list[Answer]:
    """Generates one batch. Rows that fill it up repeat the last one and are dropped."""
    from vlm_mu_jax.model.generate import generate, generate_contrasted

    full = rows + [rows[-1]] * (options.batch_size - len(rows))
    pixels = {id(row): _shown(model.processor, row.question) for row in rows}
    images = [pixels[id(row)] for row in full]
    if options.contrast is not None:
        partners = [options.contrast.partner[row.question.id, row.question.condition] for row in full]
        full += [_prompt(model, partner, options.max_new_tokens) for partner in partners]
        images += images
        width = bucket(max(len(row.ids) for row in full))
    batch = model.processor.pad([list(row.ids) for row in full], images, length=width)
    steer = options.steer
    if callable(steer):
        contexts = [row.question.context for row in full]
        steer = steer([row.question.text for row in full], images if any(images) else None, contexts)
    told: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "steer": steer}
    if options.contrast is None:
        out = generate(model.params, batch, model.config, **told)
    else:
        out = generate_contrasted(model.params, batch, model.config, alpha=options.contrast.alpha, **told)
    return _answers(model, dict(enumerate(rows)), out)


def _generate_shared(model: Model, batch: SharedBatch, options: AnswerOptions) -> list[Answer]:
    """Generates groups of questions, each group about one image. What fills them up repeats the last and is dropped."""
    from vlm_mu_jax.model.generate import generate

    size, pad = batch.group_size, model.processor.pad
    count = options.batch_size // size
    at = [min(i, len(batch.groups) - 1) for i in range(count)]  # which group, of all that are run
    groups = [[group[min(j, len(group) - 1)] for j in range(size)] for group in (batch.groups[i] for i in at)]
    starts = [batch.starts[i] for i in at]
    pixels = [_shown(model.processor, group[0].question) for group in batch.groups]
    prefix = pad(
        [list(group[0].ids[:start]) for group, start in zip(groups, starts, strict=True)],
        [pixels[i] for i in at],
        length=batch.prefix_width,
    )
    rest = [list(row.ids[start:]) for group, start in zip(groups, starts, strict=True) for row in group]
    steer = options.steer
    if callable(steer):
        asked = [row.question for group in groups for row in group]
        images, contexts = [pixels[i] for i in at for _ in range(size)], [one.context for one in asked]
        steer = steer([one.text for one in asked], images, contexts)
    out = generate(
        model.params,
        pad(rest, length=batch.rest_width),
        model.config,
        max_new_tokens=options.max_new_tokens,
        steer=steer,
        prefix=prefix,
    )
    rows = {i * size + j: row for i, group in enumerate(batch.groups) for j, row in enumerate(group)}
    return _answers(model, rows, out)


def _answers(model: Model, rows: Mapping[int, _Prompt], out: Any) -> list[Answer]:
    """Answers of the generated rows with these numbers."""
    tokens, lengths = to_host(out.tokens_BG), to_host(out.lengths_B)
    return [
        _answer(row, _text(model, [*row.ids[len(row.ids) - row.begun :], *tokens[i, : lengths[i]]]), int(lengths[i]))
        for i, row in rows.items()
    ]


def _answer(row: _Prompt, text: str = "", tokens: int = 0) -> Answer:
    """The line of the answers file. A question that was not asked has no text."""
    return Answer(
        id=row.question.id,
        condition=row.question.condition,
        image_id=row.image_id,
        prompt_sha=row.sha,
        question=row.question.text,
        answer=text,
        tokens=tokens,
        left_out=row.too_long,
    )


def _picture(processor: Processor, image: Path | str) -> Any:
    """An image file as it is, a blank image as its pixels."""
    is_blank = isinstance(image, str) and image.startswith(BLANK)
    return processor.blank_pixels(image.removeprefix(BLANK)) if is_blank else image


def _shown(processor: Processor, question: Question) -> list[Any]:
    """What `Processor.pixels` makes of a question's images."""
    pictures = [_picture(processor, image) for image in question.images]
    return [
        processor.pixels(one) if picture is image else picture
        for image, picture, one in zip(question.images, pictures, processor.together(pictures), strict=True)
    ]


def _text(model: Model, ids: Sequence[int]) -> str:
    """The decoded answer without the end token."""
    ends = set(model.config.eos_ids)
    return model.processor.decode([int(i) for i in ids if int(i) not in ends]).strip()
