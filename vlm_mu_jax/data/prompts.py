"""Questions to token rows: conversation templates, image placeholders, and which tokens carry the loss."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_mu_jax.data import anyres, images
from vlm_mu_jax.data.anyres import Tiles
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import Batch

# An image as `Processor.pixels` takes it (file or picture) or makes it (float32 [H, W, 3], or tiles for LLaVA-NeXT).
Picture = str | Path | Image.Image | np.ndarray | Tiles
Images = int | Sequence[Picture]  # their number is enough where every image has as many tokens (LLaVA-1.5)


@dataclasses.dataclass(frozen=True)
class Template:
    """`before` + images + question + `after` is the prompt; the answer follows `gap`, and `end` ends it.

    Images are placeholders with `between` them and a line break behind the last. end: "" is the model's end token;
    another text must be an end token too (as Llama 3's), or generation runs on behind it and `decode` cuts it off.
    """

    before: str
    after: str
    gap: str = " "
    end: str = ""
    between: str = "\n"


_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
# Sources: haotian-liu/LLaVA@c121f04:llava/conversation.py (conv_vicuna_v1, conv_llava_v1, conv_llava_v0,
# conv_mistral_instruct, conv_llava_plain) and the chat templates of the llava-hf checkpoints: llava_hf of LLaVA-1.5 and
# of 1.6 with Vicuna, mistral_instruct of 1.6 with Mistral, llama_3 of llama3-llava-next (which puts its line break
# before the question even without an image; here a question alone is what Llama 3 itself has).
TEMPLATES = {
    "llava_hf": Template("USER: ", " ASSISTANT:"),
    "vicuna_v1": Template(_SYSTEM.format(who="user") + " USER: ", " ASSISTANT:"),
    "llava_v1": Template(_SYSTEM.format(who="human") + " USER: ", " ASSISTANT:"),
    "llava_v0": Template(_SYSTEM.format(who="human") + "###Human: ", "###Assistant:", end="###"),
    "mistral_instruct": Template("[INST] ", " [/INST]"),
    "llama_3": Template(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        gap="",
        end="<|eot_id|>",
        between="",
    ),
    "plain": Template("", "\n", ""),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """One training row. ids: prompt, answer and end token. answer_start: index of the first answer token."""

    ids: tuple[int, ...]
    answer_start: int


class Processor:
    """Tokenizer, template and image settings of one model folder."""

    def __init__(self, tokenizer: Any, settings: images.ImageSettings | None, template: str, cfg: LlavaConfig) -> None:
        if template not in TEMPLATES:
            raise InputError(f"template {template!r} is unknown; use one of {', '.join(TEMPLATES)}")
        self.tokenizer, self.settings, self.template, self.cfg = tokenizer, settings, template, cfg
        self._image_token = None if cfg.image_token_id is None else tokenizer.convert_ids_to_tokens(cfg.image_token_id)

    @classmethod
    def from_folder(cls, folder: str | Path, cfg: LlavaConfig, template: str = "llava_hf") -> "Processor":
        """Reads the tokenizer and image settings beside a model's `config.json`."""
        from transformers import AutoTokenizer  # heavy import

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # damaged files raise anything, the Rust parser even a bare Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder}: no usable tokenizer ({reason}); copy the model's tokenizer files there"
            ) from error
        settings = None if cfg.vision is None else images.read_settings(Path(folder), cfg.vision.image_size)
        if settings is not None and cfg.vision.pinpoints:
            _check_tiles(settings, cfg, folder)
        return cls(tokenizer, settings, template, cfg)

    def prompt_text(self, question: str, images: Images = 1) -> str:
        """The prompt with one placeholder per image token. A literal placeholder in the question is an error."""
        counts = self._counts(images)
        first, *rest = self._text(question, len(counts)).split(self._image_token) if counts else [self._text(question)]
        return first + "".join(n * self._image_token + part for n, part in zip(counts, rest, strict=True))

    def prompt_ids(self, question: str, images: Images = 1) -> list[int]:
        """Token ids up to where the answer starts; the beginning-of-text token as the tokenizer adds it."""
        counts = self._counts(images)
        return self._expand(self._ids(self._text(question, len(counts))), counts)

    def short_ids(self, prompts: Sequence[tuple[str, str]], number: int) -> list[tuple[int, ...]]:
        """Ids of many prompts at once, (question, what the answer starts with or "") each, with one placeholder per
        image."""
        gap = TEMPLATES[self.template].gap
        for _, start in prompts:
            self._refuse_placeholder("answer", start)
        texts = [self._text(question, number) + (gap + start if start else "") for question, start in prompts]
        return [tuple(ids) for ids in self.tokenizer(texts)["input_ids"]]

    def example(self, question: str, answer: str, images: Images = 1, ended: bool = True) -> Example:
        """Prompt, answer and (when `ended`) its end. The loss starts at the first token that the prompt alone does not
        have."""
        template, counts = TEMPLATES[self.template], self._counts(images)
        prompt = self._text(question, len(counts))
        self._refuse_placeholder("answer", answer)
        text = prompt + (template.gap + answer if answer else "") + (template.end if ended else "")
        ids = self._ids(text)
        start = _common_prefix(self._ids(prompt), ids)
        end = self.cfg.eos_ids[:1] if ended and not template.end else ()
        return Example((*self._expand(ids, counts), *end), start + sum(counts) - len(counts))

    def question_span(self, question: str, images: Images = 1) -> tuple[int, int]:
        """Where the question's own tokens begin and end in `prompt_ids`: what a prompt without a question lacks."""
        ids, without = self.prompt_ids(question, images), self.prompt_ids("", images)
        start = _common_prefix(ids, without)
        room = min(len(ids), len(without)) - start
        behind = min(_common_prefix(ids[::-1], without[::-1]), room)
        return start, len(ids) - behind

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
        if not self.cfg.vision.pinpoints:
            return self.cfg.vision.P
        if isinstance(image, Tiles):
            return len(image.gather_Q)
        size = (image.height, image.width) if isinstance(image, Image.Image) else images.size_of(image)
        return len(anyres.gather(size, self.cfg.vision))

    def _counts(self, images: Images) -> list[int]:
        """Tokens of each image."""
        number = images if isinstance(images, int) else len(images)
        if number and self.cfg.vision is None:
            raise InputError("this is a text-only model; ask without an image")
        if number and isinstance(images, int):
            if self.cfg.vision.pinpoints:
                raise InputError("how many tokens an image of this model has depends on its size; give the images")
            return [self.cfg.vision.P] * number
        return [self.image_tokens(image) for image in images] if number else []

    def _text(self, question: str, number: int = 0) -> str:
        """The prompt with one placeholder per image."""
        self._refuse_placeholder("question", question)
        template = TEMPLATES[self.template]
        pictures = template.between.join([self._image_token] * number) + "\n" if number else ""
        return f"{template.before}{pictures}{question}{template.after}"

    def _refuse_placeholder(self, what: str, text: str) -> None:
        """It would take the place of an image's token and shift all later ones."""
        if self._image_token and self._image_token in text:
            raise InputError(f"the {what} holds the image placeholder {self._image_token!r}; remove it")

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (a processor lives as long as its process)
    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

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
        end = TEMPLATES[self.template].end
        return (text.partition(end)[0] if end else text).strip()

    def pixels(self, image: str | Path | Image.Image) -> np.ndarray | Tiles:
        """float32 [size, size, 3], or for LLaVA-NeXT the image's tiles."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        picture = image if isinstance(image, Image.Image) else images.load(image)
        if self.cfg.vision.pinpoints:
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
    if settings.pinpoints not in ((), vision.pinpoints):
        raise InputError(
            f"{folder}: image_grid_pinpoints of the image processor and of config.json differ; restore them"
        )


def bucket(length: int) -> int:
    """The padded width for a prompt of `length` tokens: at most a quarter is padding, four widths per doubling."""
    step = max(8, 2 ** max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
