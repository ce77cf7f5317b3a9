"""`vlm_mu_jax.answer`: one answer to one prompt, whole or as it comes (what `bin/generate` prints)."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.generate import Generated, stream
from vlm_mu_jax.steering.guard import Guard, open_guard
from vlm_mu_jax.storage.model_folder import Model

LONG = 24  # letters without a space, as in scripts that write none


@dataclasses.dataclass(frozen=True)
class OneAnswer:
    """An answer, or its beginning.

    prompt_token_ids: what the model saw, every image as its placeholder ids.
    token_ids: the new tokens, the end token included.
    logprobs: log-probability of each under the model's own distribution (temperature 1), in nats.
    text: the new tokens as text, without the end token.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    text: str


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How an answer is made.

    max_new_tokens: longest answer, in tokens.
    temperature: 0 takes the likeliest token every time; above 0 tokens are drawn from the nucleus of mass `top_p`.
    seed: of the drawing.
    guard: a guard, or its folder, that steers the model.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    guard: Guard | str | Path | None = None


def answer(model: Model, prompt: str, images: Sequence[Any] = (), **options: Any) -> OneAnswer:
    """Answers one prompt.

    Args:
      prompt: the question, without the conversation template.
      images: files or pictures (PIL), or one of them, in the order of the template; none for a question alone.
      options: fields of `SamplingOptions`.

    Raises:
      InputError: an image cannot be read, or the prompt is too long.

    Example:
      model = vlm_mu_jax.load("runs/base")
      print(vlm_mu_jax.answer(model, "What is on this sign?", ["photo.png"], max_new_tokens=64).text)
    """
    *_, whole = stream_answer(model, prompt, images, SamplingOptions(**options))
    return whole


def stream_answer(
    model: Model, prompt: str, images: Sequence[Any] = (), options: SamplingOptions | None = None
) -> Iterator[OneAnswer]:
    """Yields the answer so far, every few tokens; the last is what `answer` returns. Arguments as there."""
    images = [images] if isinstance(images, str | Path | Image.Image) else images
    yield from stream_in_context(model, prompt, images, None, options or SamplingOptions())


def stream_in_context(
    model: Model, prompt: str, images: Sequence[Any], context: Context | None, options: SamplingOptions
) -> Iterator[OneAnswer]:
    """As `stream_answer`, for a question inside a conversation. images: all those of the conversation, in order."""
    ids = model.processor.prompt_ids(prompt, images, context)
    limit, longest = model.config.text.max_positions, options.max_new_tokens
    if len(ids) + longest > limit:
        raise InputError(
            f"{len(ids)} prompt tokens and --max_new_tokens={longest} exceed the {limit} positions; lower it"
        )
    pixels = [[model.processor.pixels(image) for image in model.processor.together(images)]]
    batch = model.processor.pad([ids], pixels)
    steer = _steer(model, options.guard)
    if callable(steer):  # a gate that looks at the prompt first
        steer = steer([prompt], pixels if images else None, [context])
    for out in stream(
        model.params,
        batch,
        model.config,
        max_new_tokens=longest,
        temperature=options.temperature,
        top_p=options.top_p,
        seeds_B=np.array([options.seed], np.int32),
        steer=steer,
    ):
        yield _so_far(model, ids, out)


def _steer(model: Model, guard: Guard | str | Path | None) -> Any:
    return guard.steer(model) if isinstance(guard, Guard) else open_guard(model, guard)[0]


def _so_far(model: Model, ids: Sequence[int], out: Generated) -> OneAnswer:
    length = int(out.lengths_B[0])
    tokens = [int(i) for i in out.tokens_BG[0, :length]]
    logprobs = [float(p) for p in out.logprobs_BG[0, :length]]
    text = model.processor.decode([i for i in tokens if i not in model.config.eos_ids])
    return OneAnswer([int(i) for i in ids], tokens, logprobs, text)


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What to print of a text that grows: complete words, and at the end the rest. Joined they are the last text.

    A tokenizer may change text that was shown already, though none of LLaVA's does. The last text then follows again,
    on a new line.
    """
    text = shown = ""
    for text in texts:
        ready = _complete(text)
        if len(ready) > len(shown) and ready.startswith(shown):
            yield ready[len(shown) :]
            shown = ready
    yield text[len(shown) :] if text.startswith(shown) else "\n" + text


def _complete(text: str) -> str:
    """The text without its last word, which may go on. Of a very long word only an incomplete letter is left out."""
    words = text.split()
    if words and len(words[-1]) > LONG:
        return text.rstrip("\ufffd")
    return text[: len(text.rstrip()) - len(words[-1])].rstrip() if words else ""
