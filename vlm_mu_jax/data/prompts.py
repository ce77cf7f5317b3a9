"""Conversations to token rows: chat template, image placeholders, and which tokens carry the loss."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_mu_jax.data import answer_spans, anyres, chat_template, images
from vlm_mu_jax.data.anyres import Tiles
from vlm_mu_jax.data.chat_template import TEMPLATES as TEMPLATES
from vlm_mu_jax.data.chat_template import ChatTemplate, JinjaTemplate, Message
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import Batch

# An image as `Processor.pixels` takes it (file or picture) or makes it (float32 [H, W, 3], or tiles for LLaVA-NeXT).
Picture = str | Path | Image.Image | np.ndarray | Tiles
Images = int | Sequence[Picture]  # their number is enough where every image has as many tokens (LLaVA-1.5)
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
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: images.ImageSettings | None,
        template: str | ChatTemplate,
        cfg: LlavaConfig,
        system: str | None = None,
    ) -> None:
        """template: a name of `TEMPLATES`, or the template itself. Raises InputError for another name."""
        self.chat = chat_template.get(template)
        self.template = self.chat.identity + (f"+system:{_short_hash(system)}" if system is not None else "")
        self.tokenizer, self.settings, self.cfg, self.system = tokenizer, settings, cfg, system
        self._image_token = None if cfg.image_token_id is None else tokenizer.convert_ids_to_tokens(cfg.image_token_id)

    def with_template(self, template: str | ChatTemplate, system: str | None = None) -> "Processor":
        """The same processor with another chat template, and another system text when one is given."""
        return type(self)(self.tokenizer, self.settings, template, self.cfg, self.system if system is None else system)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        cfg: LlavaConfig,
        template: str | ChatTemplate = "llava_hf",
        system: str | None = None,
    ) -> "Processor":
        """Reads the tokenizer and image settings beside a model's `config.json`.

        template: as for the constructor, or "own" for the one that the folder holds.
        """
        from transformers import AutoTokenizer  # heavy import

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # damaged files raise anything, the Rust parser even a bare Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder}: no usable tokenizer ({reason}); copy the model's tokenizer files there"
            ) from error
        settings = None if cfg.vision is None else images.read_settings(Path(folder), cfg.vision.image_size)
        if settings is not None and cfg.vision.plan.varies:
            _check_tiles(settings, cfg, folder)
        if template == chat_template.OWN:
            template = chat_template.of_folder(folder)
            if template is None:
                raise InputError(f"{folder}: has no chat template of its own; convert the model again, or name another")
        return cls(tokenizer, settings, template, cfg, system)

    def prompt_text(self, question: str, images: Images = 1, answer_start: str = "") -> str:
        """The prompt with one placeholder per image token.

        answer_start: what the answer begins with. A literal placeholder in a text is an error.
        """
        counts = self._counts(images)
        text = self._text(question, len(counts), answer_start)
        first, *rest = text.split(self._image_token) if counts else [text]
        return first + "".join(n * self._image_token + part for n, part in zip(counts, rest, strict=True))

    def prompt_ids(self, question: str, images: Images = 1) -> list[int]:
        """Token ids up to where the answer starts; the beginning-of-text token as the checkpoint's own code adds it."""
        counts = self._counts(images)
        return self._expand(self._ids(self._text(question, len(counts))), counts)

    def short_ids(self, prompts: Sequence[tuple[str, str]], number: int) -> list[tuple[int, ...]]:
        """Ids of many prompts at once, (question, what the answer starts with or "") each, with one placeholder per
        image."""
        texts = [self._text(question, number, start) for question, start in prompts]
        return [tuple(ids) for ids in self._encode(texts)["input_ids"]]

    def conversation_ids(self, turns: Sequence[Turn], images: Images = (), system: str | None = None) -> list[int]:
        """Token ids of a conversation that ends with a question, up to where its answer starts.

        Args:
          turns: the conversation.
          images: all its images, in order, as for `prompt_ids`.
          system: its system text; None = the processor's.
        """
        counts = self._counts(images)
        return self._expand(self._ids(self._render(self._messages(turns, system), ready=True)), counts)

    def example(self, question: str, answer: str, images: Images = 1, ended: bool = True) -> Example:
        """Prompt, answer and (when `ended`) its end. The loss starts at the first token that the prompt alone does not
        have."""
        turns = (_asked(question, self._number(images)), Turn("assistant", (answer,)))
        return self.conversation(turns, images, ended=ended)

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
        counts = self._counts(images)
        messages = self._messages(turns, system)
        spoken = answer_spans.find(messages, functools.partial(self._render, ready=False))
        whole = answer_spans.with_ends(spoken, self._gap, self._ends)
        open_end = spoken.spans[-1][1] if turns[-1].text else whole.spans[-1][0]  # no answer has no gap before it
        closed = whole.spans[-1][1] > spoken.spans[-1][1]
        text = spoken.text[: whole.spans[-1][1] if ended and closed else open_end]
        ids, spans = self._located(text, [*whole.spans[:-1], (whole.spans[-1][0], len(text))])
        end = self.cfg.eos_ids[:1] if ended and not closed else ()
        spans[-1] = (spans[-1][0], len(ids) + len(end))
        return self._expanded_example((*ids, *end), spans if loss == "all" else spans[-1:], counts)

    def question_span(self, question: str, images: Images = 1) -> tuple[int, int]:
        """Where the question's own tokens begin and end in `prompt_ids`: what a prompt without a question lacks."""
        ids, without = self.prompt_ids(question, images), self.prompt_ids("", images)
        start = _common_prefix(ids, without)
        room = min(len(ids), len(without)) - start
        behind = min(_common_prefix(ids[::-1], without[::-1]), room)
        return start, len(ids) - behind

    def question_at(self, question: str, images: Images = 1) -> int:
        """The character of `prompt_text` at which the question begins."""
        number, mark = self._number(images), "\ue000"
        before, found, _ = self._text(mark, number).partition(mark)
        cut = len(question) - len(question.lstrip())
        text = self._text(question, number)
        if not found or not text.startswith(before):
            raise InputError("the chat template changes the question; give another with --template")
        shown = 0 if text.startswith(question, len(before)) else cut  # some templates trim it
        longer = len(self.prompt_text(question, images)) - len(text)
        inside = before.count(self._image_token) if number else 0
        return len(before) - shown + (longer if inside == number else 0)

    def text_example(self, text: str) -> Example:
        """Plain text without a prompt; every token but the first carries the loss."""
        self._refuse_placeholder("text", text)
        ids = self._ids(text)
        return Example((*ids, *self.cfg.eos_ids[:1]), 1)

    def image_tokens(self, image: Picture) -> int:
        """How many tokens one image takes. LLaVA-NeXT: by its size, which is read off the header of a file.

        Raises:
          InputError: the file is no image.
        """
        if not self.cfg.vision.plan.varies:
            return self.cfg.vision.P
        if isinstance(image, Tiles):
            return len(image.gather_Q)
        size = (image.height, image.width) if isinstance(image, Image.Image) else images.size_of(image)
        return len(self.cfg.vision.plan.gather(size))

    def _counts(self, images: Images) -> list[int]:
        """Tokens of each image."""
        number = images if isinstance(images, int) else len(images)
        if number and self.cfg.vision is None:
            raise InputError("this is a text-only model; ask without an image")
        if number and isinstance(images, int):
            if self.cfg.vision.plan.varies:
                raise InputError("how many tokens an image of this model has depends on its size; give the images")
            return [self.cfg.vision.P] * number
        return [self.image_tokens(image) for image in images] if number else []

    def _number(self, images: Images) -> int:
        return images if isinstance(images, int) else len(images)

    def _text(self, question: str, number: int = 0, answer_start: str = "") -> str:
        """The prompt with one placeholder per image, and what its answer begins with."""
        turns = [_asked(question, number)]
        if not answer_start:
            return self._render(self._messages(turns, None), ready=True)
        messages = self._messages([*turns, Turn("assistant", (answer_start,))], None)
        spoken = answer_spans.find(messages, functools.partial(self._render, ready=False))
        return spoken.text[: spoken.spans[-1][1]]

    def _messages(self, turns: Sequence[Turn], system: str | None) -> list[Message]:
        """Messages for the template. A literal placeholder in a text would take the place of an image's token."""
        for turn in turns:
            self._refuse_placeholder("question" if turn.role == "user" else "answer", turn.text)
        system = self.system if system is None else system
        self._refuse_placeholder("system text", system or "")
        return chat_template.to_messages(turns, system)

    def _render(self, messages: Sequence[Message], ready: bool) -> str:
        """The template's text, with one placeholder per image."""
        text = self.chat.render(messages, ready, self._image_token or "", self._special)
        wanted = sum(part["type"] == "image" for one in messages for part in one["content"])
        if self._image_token and text.count(self._image_token) != wanted:
            raise InputError(
                f"the chat template prints {text.count(self._image_token)} places {self._image_token!r} for {wanted}"
                " images; give one for this kind of model with --template or --chat_template"
            )
        return text

    @functools.cached_property
    def _special(self) -> dict[str, str]:
        """Texts of the special tokens; the end token is the model's own."""
        texts = {name: text for name, text in self.tokenizer.special_tokens_map.items() if isinstance(text, str)}
        if not isinstance(self.chat, JinjaTemplate) and self.cfg.eos_ids:
            texts["eos_token"] = self.tokenizer.convert_ids_to_tokens(self.cfg.eos_ids[0])
        return texts

    @functools.cached_property
    def _gap(self) -> str:
        """What the template prints between a prompt and its answer: the model has to write it, so it carries loss."""
        ask = [_asked("?", 0)]
        ready = self._render(chat_template.to_messages(ask), ready=True)
        answered = chat_template.to_messages([*ask, Turn("assistant", ("?",))])
        spoken = answer_spans.find(answered, functools.partial(self._render, ready=False))
        before = spoken.text[: spoken.spans[0][0]]
        return before.removeprefix(ready) if before.startswith(ready) else ""

    @functools.cached_property
    def _ends(self) -> tuple[str, ...]:
        """Texts that end an answer where they follow it: the template's end; the model's end token; of a checkpoint's
        own template any special token that does not open a message."""
        if self.chat.end:
            return (self.chat.end,)
        if not isinstance(self.chat, JinjaTemplate):
            return (self._special["eos_token"],) if "eos_token" in self._special else ()
        special = {text for text in self.tokenizer.all_special_tokens if text}
        special |= {one.content for one in self.tokenizer.added_tokens_decoder.values() if one.special}
        ask = chat_template.to_messages([_asked("?", 0)])
        ready, asked = self._render(ask, ready=True), self._render(ask, ready=False)
        opening = ready[len(asked) :].lstrip() if ready.startswith(asked) else ""
        openings = {self._image_token, self.tokenizer.bos_token, *(t for t in special if opening.startswith(t))}
        ends = {self.tokenizer.convert_ids_to_tokens(i) for i in self.cfg.eos_ids if i < len(self.tokenizer)}
        return tuple((special - openings) | ends)

    def _encode(self, texts: list[str], **options: Any) -> Any:
        """The tokenizer's output. A text-only model's own template prints all special tokens; transformers adds the
        beginning-of-text token to other prompts that do not begin with it."""
        bos = self.tokenizer.bos_token
        own = isinstance(self.chat, JinjaTemplate)
        add = not own or (self.cfg.vision is not None and not (bos and texts[0].startswith(bos)))
        return self.tokenizer(texts, add_special_tokens=add, **options)

    def _located(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """(ids, the token spans of the character spans). A span begins at the first token that the text before it,
        taken alone, does not have, and ends likewise. Offsets will not do: normalisers move them."""
        places = sorted({at for span in spans for at in span if at < len(text)})
        ids, *before = self._encode([text, *(text[:at] for at in places)])["input_ids"]
        at_token = {at: _common_prefix(row, ids) for at, row in zip(places, before, strict=True)} | {
            len(text): len(ids)
        }
        return tuple(ids), [(at_token[start], at_token[end]) for start, end in spans]

    def _expanded_example(self, ids: Sequence[int], spans: Sequence[tuple[int, int]], counts: Sequence[int]) -> Example:
        """With every placeholder as often as its image has tokens, and the spans moved with them."""
        image, moved, left, shift = self.cfg.image_token_id, [0], iter(counts), 0
        for token in ids:
            shift += next(left, 1) - 1 if token == image and counts else 0
            moved.append(shift)
        spans = tuple((start + moved[start], end + moved[end]) for start, end in spans)
        return Example(tuple(self._expand(ids, counts)), spans[0][0], spans)

    def _refuse_placeholder(self, what: str, text: str) -> None:
        """Raises InputError for a text that holds one."""
        if self._image_token and self._image_token in text:
            raise InputError(f"the {what} holds the image placeholder {self._image_token!r}; remove it")

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (a processor lives as long as its process)
    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode([text])["input_ids"][0])

    def _expand(self, ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Every placeholder as often as its image has tokens. One placeholder is a token of its own, so that the same
        ids come out as if the text had held them all, without tokenising thousands of them."""
        expanded, left = [], iter(counts)
        for token in ids:
            expanded += [token] * next(left, 0) if token == self.cfg.image_token_id else [token]
        if counts and ids.count(self.cfg.image_token_id) != len(counts):
            raise InputError(f"the tokenizer does not keep {self._image_token!r} as one token; use the model's own")
        return expanded

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens, up to the template's end."""
        text = self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        end = self.chat.end
        return (text.partition(end)[0] if end else text).strip()

    def pixels(self, image: str | Path | Image.Image) -> np.ndarray | Tiles:
        """float32 [size, size, 3], or for LLaVA-NeXT the image's tiles."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        picture = image if isinstance(image, Image.Image) else images.load(image)
        if self.cfg.vision.plan.varies:
            return anyres.prepare(images.to_rgb(picture), self.settings, self.cfg.vision)
        return images.to_pixels(picture, self.settings)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def blank_pixels(self, kind: str = "white", seed: int = 0) -> np.ndarray | Tiles:
        """A blank image's pixels; see `images.blank`."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        return self.pixels(images.blank(kind, self.settings.crop, self.settings, seed))

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
        stacked, gather_BQ = anyres.stack(pixels, most, like, width=T)
        return Batch(tokens, lengths, stacked, gather_BQ=gather_BQ)

    def _check_counts(self, rows: Sequence[Sequence[int]], pixels: Sequence[Sequence[Tiles]]) -> None:
        """Ids made for images of another size would silently get a neighbour's tokens."""
        for i, (row, tiles) in enumerate(zip(rows, pixels, strict=True)):
            stand, have = list(row).count(self.cfg.image_token_id), sum(len(one.gather_Q) for one in tiles)
            if stand != have:
                raise InputError(f"row {i} has {stand} image placeholders, but its images have {have} tokens")


def _check_tiles(settings: images.ImageSettings, cfg: LlavaConfig, folder: str | Path) -> None:
    """The model and its image processor must cut images the same way, or tokens and features do not meet."""
    vision = cfg.vision
    if settings.crop != vision.image_size:
        raise InputError(
            f"{folder}: the image processor's crop of {settings.crop} is not the tower's {vision.image_size}"
        )
    if settings.pinpoints not in ((), vision.plan.pinpoints):
        raise InputError(
            f"{folder}: image_grid_pinpoints of the image processor and of config.json differ; restore them"
        )


def bucket(length: int) -> int:
    """The padded width for a prompt of `length` tokens: at most a quarter is padding, four widths per doubling."""
    step = max(8, 2 ** max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def _asked(question: str, number: int) -> Turn:
    """A question with its images in front."""
    return Turn("user", (*[ImagePart("image")] * number, question))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
