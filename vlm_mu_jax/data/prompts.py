"""Conversations to token rows: chat template, image placeholders, and which tokens carry the loss."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_mu_jax.data import chat_template, images, tiling
from vlm_mu_jax.data.chat_template import TEMPLATES as TEMPLATES
from vlm_mu_jax.data.chat_template import ChatTemplate
from vlm_mu_jax.data.image_settings import fitted, read_settings
from vlm_mu_jax.data.records import Turn
from vlm_mu_jax.data.rendering import Context, Renderer, asked, common_prefix
from vlm_mu_jax.data.tiling import Among, Tiles
from vlm_mu_jax.data.tokenizer_files import read_tokenizer
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.image_plans.image_plan import ImagePlan, Layout, Size
from vlm_mu_jax.model.vlm import Batch

# An image as `Processor.pixels` takes it (file or picture) or makes it (float32 [H, W, 3], or tiles).
Picture = str | Path | Image.Image | np.ndarray | Tiles | Among
Images = int | Sequence[Picture]  # their number is enough where every image has as many tokens
LOSSES = ("all", "last")  # which answers of a conversation carry the loss


@dataclasses.dataclass(frozen=True)
class Example:
    """One training row.

    Attributes:
      ids: prompt, answer and end token; or a whole conversation.
      answer_start: index of the first token that carries the loss.
      spans: (first, end) of every stretch of tokens that carries the loss; by default one, from `answer_start` on.
    """

    ids: tuple[int, ...]
    answer_start: int
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def mask(self) -> tuple[bool, ...]:
        """True at tokens that carry the loss."""
        spans = self.spans or ((self.answer_start, len(self.ids)),)
        mask = [False] * len(self.ids)
        for start, end in spans:
            mask[start:end] = [True] * (end - start)
        return tuple(mask)


class Processor:
    """Tokenizer, chat template and image settings of one model folder.

    Attributes:
      chat: the chat template.
      template: its identity, a name or a name with a hash. It is stored with whatever is made of the model's answers.
      system: the system text of conversations that have none of their own; None = the template's.
      cfg: the model's config. `from_folder` fits its image plan to the image processor's config.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: images.ImageSettings | None,
        template: str | ChatTemplate,
        cfg: ModelConfig,
        system: str | None = None,
    ) -> None:
        """template: a name of `TEMPLATES`, or the template itself. Raises InputError for another name."""
        self.chat = chat_template.get(template)
        self.template = self.chat.identity + (f"+system:{_short_hash(system)}" if system is not None else "")
        self.tokenizer, self.settings, self.cfg, self.system = tokenizer, settings, cfg, system
        self._renderer = Renderer(tokenizer, self.chat, cfg, system)

    def with_template(self, template: str | ChatTemplate, system: str | None = None) -> "Processor":
        """The same processor with another chat template, and another system text when one is given."""
        return type(self)(self.tokenizer, self.settings, template, self.cfg, self.system if system is None else system)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        cfg: ModelConfig,
        template: str | ChatTemplate = "llava_hf",
        system: str | None = None,
    ) -> "Processor":
        """Reads the tokenizer and image settings beside a model's `config.json`.

        template: as for the constructor, or "own" for the one that the folder holds.
        """
        tokenizer = read_tokenizer(Path(folder))
        settings = None
        if cfg.vision is not None:
            settings = read_settings(Path(folder), cfg.vision.image_size)
            cfg = dataclasses.replace(cfg, vision=fitted(Path(folder), cfg.vision))
        if template == chat_template.OWN:
            template = chat_template.of_folder(folder)
            if template is None:
                raise InputError(f"{folder}: has no chat template of its own; convert the model again, or name another")
        return cls(tokenizer, settings, template, cfg, system)

    def prompt_text(
        self, question: str, images: Images = 1, answer_start: str = "", context: Context | None = None
    ) -> str:
        """The prompt with one placeholder per image token.

        Args:
          images: all images of the prompt, in order.
          answer_start: what the answer begins with. A literal placeholder in a text is an error.
          context: the conversation around the question; without it the images stand in front of the question.
        """
        layouts = self._layouts(images)
        text = self._renderer.filled(
            self._renderer.question_text(question, len(layouts), answer_start, context), layouts
        )
        first, *rest = text.split(self._renderer.image_token) if layouts else [text]
        counts = _runs(layouts)
        return first + "".join(n * self._renderer.image_token + part for n, part in zip(counts, rest, strict=True))

    def prompt_ids(self, question: str, images: Images = 1, context: Context | None = None) -> list[int]:
        """Token ids up to where the answer starts; the beginning-of-text token as the checkpoint's own code adds it."""
        layouts = self._layouts(images)
        return self._whole(self._renderer.question_text(question, len(layouts), "", context), layouts)

    def short_ids(
        self, prompts: Sequence[tuple[str, str]], images: Images, context: Context | None = None
    ) -> list[tuple[int, ...]]:
        """Ids of many prompts at once, (question, what the answer starts with or "") each, about the same images. A run
        of image tokens is short, one token, which `lengthened` makes as many as it stands for."""
        layouts = self._layouts(images)
        texts = [self._renderer.question_text(question, len(layouts), start, context) for question, start in prompts]
        filled = [self._renderer.filled(text, layouts) for text in texts]
        return [tuple(ids) for ids in self._renderer.encode(filled)["input_ids"]]

    def lengthened(self, short: Sequence[int], images: Images, before: Sequence[int] = ()) -> tuple[int, ...]:
        """Ids of `short_ids`, or a part of them, with as many image tokens as the images have.

        before: the ids in front of that part.
        """
        runs = _runs(self._layouts(images))[list(before).count(self.cfg.image_token_id) :]
        return tuple(self._expand(short, runs, part=True))

    def conversation_ids(self, turns: Sequence[Turn], images: Images = (), system: str | None = None) -> list[int]:
        """Token ids of a conversation that ends with a question, up to where its answer starts.

        Args:
          turns: the conversation.
          images: all its images, in order, as for `prompt_ids`.
          system: its system text; None = the processor's.
        """
        layouts = self._layouts(images)
        text = self._renderer.render(self._renderer.messages(turns, system), ready=True)
        return self._expand(self._renderer.fresh_ids(self._renderer.filled(text, layouts)), _runs(layouts))

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text without a template, after the beginning-of-text token if the tokenizer adds one.

        Raises:
          InputError: the text holds an image's placeholder.
        """
        self._renderer.refuse_placeholder("prompt", text)
        return list(self.tokenizer(text)["input_ids"])

    def example(
        self, question: str, answer: str, images: Images = 1, ended: bool = True, context: Context | None = None
    ) -> Example:
        """Prompt, answer and (when `ended`) its end. The loss starts at the first token that the prompt alone does not
        have. With a `context` it is on this answer alone."""
        before = (asked(question, self._number(images)),) if context is None else context.turns(question)
        turns, system = (*before, Turn("assistant", (answer,))), None if context is None else context.system
        return self.conversation(turns, images, system, "last", ended)

    def conversation(
        self,
        turns: Sequence[Turn],
        images: Images = (),
        system: str | None = None,
        loss: str = "all",
        ended: bool = True,
    ) -> Example:
        """A conversation that ends with an answer, with the loss on its answers and their ends.

        Args:
          turns: the conversation.
          images: all its images, in order, as for `prompt_ids`.
          system: its system text; None = the processor's.
          loss: "all" answers carry the loss, or the "last" alone.
          ended: whether the last answer's end belongs to the row. It is what the template ends an answer with, or else
            the model's end token. What the template prints behind it is left out.
        """
        layouts = self._layouts(images)
        messages = self._renderer.messages(turns, system)
        spoken = self._renderer.spoken(messages)
        whole = self._renderer.with_ends(spoken)
        open_end = spoken.spans[-1][1] if turns[-1].text else whole.spans[-1][0]  # no answer has no gap before it
        closed = whole.spans[-1][1] > spoken.spans[-1][1]
        text = spoken.text[: whole.spans[-1][1] if ended and closed else open_end]
        spans = self._renderer.moved(text, [*whole.spans[:-1], (whole.spans[-1][0], len(text))], layouts)
        ids, spans = self._renderer.located(self._renderer.filled(text, layouts), spans)
        end = self.cfg.eos_ids[:1] if ended and not closed else ()
        spans[-1] = (spans[-1][0], len(ids) + len(end))
        return self._expanded_example((*ids, *end), spans if loss == "all" else spans[-1:], _runs(layouts))

    def question_span(self, question: str, images: Images = 1) -> tuple[int, int]:
        """Where the question's own tokens begin and end in `prompt_ids`: what a prompt without a question lacks."""
        ids, without = self.prompt_ids(question, images), self.prompt_ids("", images)
        start = common_prefix(ids, without)
        room = min(len(ids), len(without)) - start
        behind = min(common_prefix(ids[::-1], without[::-1]), room)
        return start, len(ids) - behind

    def question_at(self, question: str, images: Images = 1, context: Context | None = None) -> int:
        """The character of `prompt_text` at which the question begins."""
        layouts, asked_for = self._layouts(images), "\ue000"
        before, found, _ = self._renderer.question_text(asked_for, len(layouts), "", context).partition(asked_for)
        cut = len(question) - len(question.lstrip())
        text = self._renderer.question_text(question, len(layouts), "", context)
        if not found or not text.startswith(before):
            raise InputError("the chat template changes the question; give another with --template")
        shown = 0 if text.startswith(question, len(before)) else cut  # some templates trim it
        token, mark = self._renderer.image_token, self._renderer.mark
        ahead = layouts[: before.count(mark)] if mark else []
        lengths = [sum(len(p) if isinstance(p, str) else p * len(token) for p in one) - len(mark) for one in ahead]
        return len(before) - shown + sum(lengths)

    def text_example(self, text: str) -> Example:
        """Plain text without a prompt; every token but the first carries the loss."""
        self._renderer.refuse_placeholder("text", text)
        ids = self._ids(text)
        return Example((*ids, *self.cfg.eos_ids[:1]), 1)

    def layout(self, image: Picture) -> Layout:
        """What stands for an image in a prompt: texts, and runs of image tokens. Where it depends on the image's size,
        that is read off the header of a file.

        Raises:
          InputError: the file is no image.
        """
        plan, image = self._plan_of(image)
        if not plan.varies:
            return plan.layout((0, 0))
        if isinstance(image, Tiles):
            return image.layout
        return plan.layout(self._size(image))

    def encoded_images(self, image: Picture) -> int:
        """How many encoded images a picture is cut into, of a model that cuts them into tiles.

        Raises:
          InputError: the file is no image.
        """
        plan, image = self._plan_of(image)
        return len(image.pixels_MHWC) if isinstance(image, Tiles) else len(plan.views(self._size(image)))

    def _size(self, image: Any) -> Size:
        return (image.height, image.width) if isinstance(image, Image.Image) else images.size_of(image)

    def _layouts(self, images: Images) -> list[Layout]:
        number = self._number(images)
        if number and self.cfg.vision is None:
            raise InputError("this is a text-only model; ask without an image")
        if number and isinstance(images, int):
            if self.cfg.vision.plan.varies:
                raise InputError("how many tokens an image of this model has depends on its size; give the images")
            return [self.cfg.vision.plan.layout((0, 0))] * number
        return [self.layout(image) for image in self.together(images)] if number else []

    def _whole(self, text: str, layouts: Sequence[Layout]) -> list[int]:
        """Ids of a rendered text with all image tokens."""
        return self._expand(self._ids(self._renderer.filled(text, layouts)), _runs(layouts))

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._renderer.ids(text)

    def _number(self, images: Images) -> int:
        return images if isinstance(images, int) else len(images)

    def _expanded_example(self, ids: Sequence[int], spans: Sequence[tuple[int, int]], runs: Sequence[int]) -> Example:
        """With every run of image tokens as long as it is, and the spans moved with them."""
        image, moved, left, shift = self.cfg.image_token_id, [0], iter(runs), 0
        for token in ids:
            shift += next(left, 1) - 1 if token == image and runs else 0
            moved.append(shift)
        spans = tuple((start + moved[start], end + moved[end]) for start, end in spans)
        return Example(tuple(self._expand(ids, runs)), spans[0][0], spans)

    def _expand(self, ids: Sequence[int], runs: Sequence[int], part: bool = False) -> list[int]:
        """Every image token as often as its run is long. An image token is one by itself, so that the same ids come out
        as if the text had held them all, without tokenising thousands of them. part: not all of the runs are here."""
        image, left = self.cfg.image_token_id, iter(runs)
        stand = ids.count(image)
        if runs and (stand > len(runs) or (stand != len(runs) and not part)):
            raise InputError(
                f"the tokenizer does not keep {self._renderer.image_token!r} as one token; use the model's own"
            )
        return [one for token in ids for one in ([token] * next(left, 0) if token == image else [token])]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens, up to the template's end."""
        text = self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        end = self.chat.end
        return (text.partition(end)[0] if end else text).strip()

    def together(self, images: Sequence[Picture]) -> list[Picture]:
        """All images of one prompt as `pixels` has to get them: some models read a picture among others differently."""
        if len(images) < 2 or self.cfg.vision is None or self.cfg.vision.several is None:
            return list(images)
        return [image if isinstance(image, Among) else Among(image) for image in images]

    def _plan_of(self, image: Picture) -> tuple[ImagePlan, Picture]:
        vision = self.cfg.vision
        return (vision.several, image.picture) if isinstance(image, Among) else (vision.plan, image)

    def pixels(self, image: str | Path | Image.Image | Among) -> np.ndarray | Tiles:
        """float32 [size, size, 3], or for a model that cuts images the image's tiles."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        plan, image = self._plan_of(image)
        picture = image if isinstance(image, Image.Image) else images.load(image)
        if plan.varies:
            return tiling.prepare(images.to_rgb(picture), self.settings, self.cfg.vision, plan)
        return images.to_pixels(picture, self.settings)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def blank_pixels(self, kind: str = "white") -> np.ndarray | Tiles:
        """A blank image's pixels; see `images.blank`."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        return self.pixels(images.blank(kind, self.settings.side, self.settings))

    def pad(
        self,
        rows: Sequence[Sequence[int]],
        pixels: Sequence[Sequence[np.ndarray | Tiles]] | None = None,
        multiple: int = 8,
        length: int | None = None,
    ) -> Batch:
        """Right-padded batch of id rows, `pixels[i]` the images of row i (shorter lists are filled with zeros).

        T is `length`, or the longest row rounded up to `multiple`, so that few shapes are compiled.
        """
        longest = max(len(row) for row in rows)
        T = length or -(-longest // multiple) * multiple
        if longest > T:
            raise InputError(f"a row of {longest} tokens does not fit length {T}")
        tokens = np.full((len(rows), T), self.cfg.pad_id, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int32)
        most = max(map(len, pixels or ()), default=0)
        if not most:
            return Batch(tokens, lengths)
        like = next(row_pixels[0] for row_pixels in pixels if len(row_pixels))
        if isinstance(like, Tiles):
            self._check_counts(rows, pixels)
        shown = max(int((row == self.cfg.image_token_id).sum()) for row in tokens)
        stacked = tiling.stack(pixels, most, like, width=T, tokens=bucket(max(shown, 1)))
        return Batch(tokens, lengths, **stacked._asdict())

    def _check_counts(self, rows: Sequence[Sequence[int]], pixels: Sequence[Sequence[Tiles]]) -> None:
        """Ids made for images of another size would silently get a neighbour's tokens."""
        for i, (row, shown) in enumerate(zip(rows, pixels, strict=True)):
            stand, have = list(row).count(self.cfg.image_token_id), sum(len(one.gather_Q) for one in shown)
            if stand != have:
                raise InputError(f"row {i} has {stand} image placeholders, but its images have {have} tokens")


def _runs(layouts: Sequence[Layout]) -> list[int]:
    """Lengths of all runs of image tokens."""
    return [part for layout in layouts for part in layout if isinstance(part, int)]


def bucket(length: int) -> int:
    """The padded width for a prompt of `length` tokens: at most a quarter is padding, four widths per doubling."""
    step = max(8, 2 ** max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
