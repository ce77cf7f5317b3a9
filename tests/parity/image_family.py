"""What every parity test of a family with images asks of a tiny checkpoint and of PyTorch transformers."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from PIL import Image

import vlm_mu_jax
from tests.conversion.test_exporter import tensors
from tests.families import auto_processor
from vlm_mu_jax.conversion.exporter import ExportOptions
from vlm_mu_jax.data.tiling import Tiles
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import forward

TOLERANCE = 1e-4
QUESTION = "share the steps of the dax on this sign ?"
NEW = 24  # tokens of an answer
logits_of = jax.jit(lambda params, batch, cfg: forward(params, batch, cfg).logits_BTV, static_argnames="cfg")


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Drawn pictures of (width, height) each."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


@dataclasses.dataclass
class Both:
    """One checkpoint in transformers' hands and in ours.

    rows: the pictures of each prompt; () for a text alone.
    """

    folder: Path
    theirs: Any
    processor: Any
    ours: Any
    rows: list[tuple[Image.Image, ...]]

    @classmethod
    def of(
        cls, folder: Path, rows: list[tuple[Image.Image, ...]], processor: Callable[[Path], Any] = auto_processor
    ) -> "Both":
        """folder: holds `hf`, the checkpoint with its processor; `ours` is written beside it. processor: reads it."""
        theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder / "hf").eval()
        processor = processor(folder / "hf")
        theirs.generation_config.eos_token_id = None  # both sides make all tokens
        vlm_mu_jax.convert(folder / "hf", folder / "ours")
        return cls(folder, theirs, processor, vlm_mu_jax.load(folder / "ours"), rows)

    def inputs(self, images: tuple[Image.Image, ...]) -> Any:
        """What transformers' own processor makes of the question about these pictures."""
        content = [*({"type": "image", "image": one} for one in images), {"type": "text", "text": QUESTION}]
        how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        return self.processor.apply_chat_template([{"role": "user", "content": content}], **how)

    def batch(self) -> Any:
        """All prompts as one batch of ours."""
        make = self.ours.processor
        ids = [make.prompt_ids(QUESTION, images) for images in self.rows]
        return make.pad(ids, [self._pixels(images) for images in self.rows], multiple=32)

    def _pixels(self, images: tuple[Image.Image, ...]) -> list[np.ndarray | Tiles]:
        make = self.ours.processor
        return [make.pixels(image) for image in make.together(images)]

    def assert_same_ids_and_pixels(self) -> None:
        for images in self.rows:
            inputs = self.inputs(images)
            assert self.ours.processor.prompt_ids(QUESTION, images) == inputs["input_ids"][0].tolist()
            if images:
                ours = [one.pixels_MHWC if isinstance(one, Tiles) else one[None] for one in self._pixels(images)]
                want = _encoded(inputs["pixel_values"].numpy(), ours)
                np.testing.assert_allclose(np.concatenate(ours), want, atol=1e-6)

    def assert_same_logits(self) -> Any:
        """Of every prompt alone in transformers, of all in one ragged batch in ours, which is returned."""
        batch = self.batch()
        logits = np.asarray(logits_of(self.ours.params, batch, self.ours.config))
        for i, (images, length) in enumerate(zip(self.rows, batch.lengths_B, strict=True)):
            model = copy.deepcopy(self.theirs)  # dynamic rope of transformers remembers the longest row it has seen
            with torch.no_grad():
                want = model(**self.inputs(images)).logits[0].numpy()
            assert np.abs(want).max() > 0.5, "logits too small for the tolerance to mean anything"
            np.testing.assert_allclose(logits[i, :length], want, atol=TOLERANCE, rtol=0)
        return batch

    def assert_same_logits_and_answers(self) -> None:
        """Greedy tokens from a cache are those of transformers, and of our own whole forward."""
        batch, cfg = self.assert_same_logits(), dataclasses.replace(self.ours.config, eos_ids=())
        made = np.asarray(generate(self.ours.params, batch, cfg, max_new_tokens=NEW).tokens_BG)
        whole = np.pad(batch.tokens_BT, ((0, 0), (0, NEW)))
        for i, (images, length) in enumerate(zip(self.rows, batch.lengths_B, strict=True)):
            barred = [cfg.image_token_id]
            how = {"max_new_tokens": NEW, "do_sample": False, "suppress_tokens": barred}
            answer = self.theirs.generate(**self.inputs(images), **how)
            assert made[i].tolist() == answer[0, length:].tolist()
            whole[i, length : length + NEW] = made[i]
        written = batch.replace(tokens_BT=whole, lengths_B=batch.lengths_B + NEW)
        if batch.gather_BQ is not None:
            written = written.replace(gather_BQ=np.pad(batch.gather_BQ, ((0, 0), (0, NEW))))
        again = np.asarray(logits_of(self.ours.params, written, cfg)).copy()
        again[..., cfg.image_token_id] = -np.inf  # an answer never holds the placeholder
        for row, answer, length in zip(again, made, batch.lengths_B, strict=True):
            assert row[length - 1 : length + NEW - 1].argmax(-1).tolist() == answer.tolist()


def _encoded(theirs: np.ndarray, ours: list[np.ndarray]) -> np.ndarray:
    """transformers' pixels of one prompt as encoded images [M, H, W, C], without those that fill up.

    ours: encoded images of each picture.
    """
    if theirs.ndim == 2:  # patches, whose frames are alike
        p = ours[0].shape[1]
        frames = theirs.reshape(len(theirs), 3, -1, p, p)
        assert (frames == frames[:, :, :1]).all()
        return frames[:, :, 0].transpose(0, 2, 3, 1)
    if theirs.ndim == 5 and len(theirs) == len(ours):  # every picture filled up to the most tiles
        theirs = np.concatenate([one[: len(mine)] for one, mine in zip(theirs, ours, strict=True)])
    return theirs.reshape(-1, *theirs.shape[-3:]).transpose(0, 2, 3, 1)


def assert_comes_back(source: Path, top: Path, shard_bytes: int = 5 * 10**9) -> str:
    """Into our folder and out again: the same tensors in the same spelling, which is returned."""
    done = vlm_mu_jax.convert(source, top / "there")
    back = vlm_mu_jax.export(top / "there", top / "back", ExportOptions(shard_bytes=shard_bytes)).folder
    want = tensors(source)
    assert tensors(back) == want
    if shard_bytes < 10**9:
        assert len(list(back.glob("*.safetensors"))) > 1
    return done.dialect
