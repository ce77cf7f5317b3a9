"""Questions to token rows: conversation templates, image placeholders, and which tokens carry the loss."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_mu_jax.data import images
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import Batch


@dataclasses.dataclass(frozen=True)
class Template:
    """`before` + question + `after` is the prompt; the answer follows `gap`.

    Before the question stands "<image>\\n" per image.
    """

    before: str
    after: str
    gap: str = " "


_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions. USER: "
)
TEMPLATES = {
    # Sources: llava-hf chat template; haotian-liu/LLaVA@c121f04:llava/conversation.py conv_vicuna_v1, conv_llava_v1.
    "llava_hf": Template("USER: ", " ASSISTANT:"),
    "vicuna_v1": Template(_SYSTEM.format(who="user"), " ASSISTANT:"),
    "llava_v1": Template(_SYSTEM.format(who="human"), " ASSISTANT:"),
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
        return cls(tokenizer, settings, template, cfg)

    def prompt_text(self, question: str, n_images: int = 1) -> str:
        """The prompt with one placeholder token per image patch. A literal placeholder in the question is an error."""
        if n_images and self.cfg.vision is None:
            raise InputError("this is a text-only model; ask without an image")
        self._refuse_placeholder("question", question)
        template = TEMPLATES[self.template]
        picture = f"{self._image_token * self.cfg.vision.P}\n" * n_images if n_images else ""
        return f"{template.before}{picture}{question}{template.after}"

    def _refuse_placeholder(self, what: str, text: str) -> None:
        """It would take the place of an image's token and shift all later ones."""
        if self._image_token and self._image_token in text:
            raise InputError(f"the {what} holds the image placeholder {self._image_token!r}; remove it")

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (a processor lives as long as its process)
    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

    def prompt_ids(self, question: str, n_images: int = 1) -> list[int]:
        """Token ids up to where the answer starts; the beginning-of-text token as the tokenizer adds it."""
        return list(self._ids(self.prompt_text(question, n_images)))

    def example(self, question: str, answer: str, n_images: int = 1) -> Example:
        """Prompt, answer and end token. The loss starts at the first token that the prompt alone does not have."""
        prompt = self.prompt_text(question, n_images)
        self._refuse_placeholder("answer", answer)
        ids = self._ids(prompt + (TEMPLATES[self.template].gap + answer if answer else ""))
        start = _common_prefix(self._ids(prompt), ids)
        return Example((*ids, *self.cfg.eos_ids[:1]), start)

    def text_example(self, text: str) -> Example:
        """Plain text without a prompt; every token but the first carries the loss."""
        self._refuse_placeholder("text", text)
        ids = self._ids(text)
        return Example((*ids, *self.cfg.eos_ids[:1]), 1)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True).strip()

    def pixels(self, image: str | Path | Image.Image) -> np.ndarray:
        """float32 [size, size, 3]."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        picture = image if isinstance(image, Image.Image) else images.load(image)
        return images.to_pixels(picture, self.settings)

    def blank_pixels(self, kind: str = "white", seed: int = 0) -> np.ndarray:
        """A blank image's pixels; see `images.blank`."""
        if self.settings is None:
            raise InputError("this is a text-only model; it reads no images")
        return images.to_pixels(images.blank(kind, self.settings.crop, self.settings, seed), self.settings)

    def pad(
        self,
        rows: Sequence[Sequence[int]],
        pixels: Sequence[Sequence[np.ndarray]] | None = None,
        multiple: int = 8,
        length: int | None = None,
    ) -> Batch:
        """Right-padded batch of id rows, `pixels[i]` the images of row i (shorter lists are filled with zeros).

        T is `length`, or the longest row rounded up to `multiple`, so that few shapes are compiled.
        """  # fmt: skip
        longest = max(len(row) for row in rows)
        T = length or -(-longest // multiple) * multiple
        if longest > T:
            raise InputError(f"a row of {longest} tokens does not fit length {T}")
        tokens = np.full((len(rows), T), self.cfg.pad_id, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int32)
        most = max((len(p) for p in pixels), default=0) if pixels is not None else 0
        if most == 0:
            return Batch(tokens, lengths)
        stack = np.zeros((len(rows), most, self.settings.crop, self.settings.crop, 3), np.float32)
        for i, row_pixels in enumerate(pixels):
            for j, one in enumerate(row_pixels):
                stack[i, j] = one
        return Batch(tokens, lengths, stack)


def bucket(length: int) -> int:
    """The padded width for a prompt of `length` tokens: at most a quarter is padding, four widths per doubling."""
    step = max(8, 2 ** max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
