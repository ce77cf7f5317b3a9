"""One answer to one prompt, as it comes: what `bin/generate` prints."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.errors import InputError

LONG = 24  # letters without a space: a script that writes none


def answers(
    model: Any,
    prompt: str,
    images: Sequence[Any],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    steer: Any = None,
) -> Iterator[dict[str, Any]]:
    """The answer so far as {"prompt_token_ids", "token_ids", "logprobs", "text"}, every few tokens; the last is whole.

    Args:
      images: files or pictures, in the order in which the template puts them.
      steer: as in `answers.answer_questions`.

    Raises InputError for an image that cannot be read or a prompt that is too long.
    """
    from vlm_mu_jax.model.generate import stream

    ids = model.processor.prompt_ids(prompt, images)
    limit = model.config.text.max_positions
    if len(ids) + max_new_tokens > limit:
        raise InputError(
            f"{len(ids)} prompt tokens and --max_new_tokens={max_new_tokens} exceed the {limit} positions; lower it"
        )
    pixels = [[model.processor.pixels(image) for image in images]]
    batch = model.processor.pad([ids], pixels)
    if callable(steer):
        steer = steer([prompt], pixels if images else None)
    for out in stream(
        model.params,
        batch,
        model.config,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seeds_B=np.array([seed], np.int32),
        steer=steer,
    ):
        length = int(out.lengths_B[0])
        tokens = [int(i) for i in out.tokens_BG[0, :length]]
        yield {
            "prompt_token_ids": [int(i) for i in ids],
            "token_ids": tokens,
            "logprobs": [float(p) for p in out.logprobs_BG[0, :length]],
            "text": model.processor.decode([i for i in tokens if i not in model.config.eos_ids]),
        }


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """What to print of a text that grows: complete words only, the rest at the end; joined, they are the last text.

    A tokenizer may still change what was shown (none of LLaVA's does); the last text is then given again on a new line.
    """
    text = shown = ""
    for text in texts:
        ready = _complete(text)
        if len(ready) > len(shown) and ready.startswith(shown):
            yield ready[len(shown) :]
            shown = ready
    yield text[len(shown) :] if text.startswith(shown) else "\n" + text


def _complete(text: str) -> str:
    """All but the last word, which may go on; of a very long one only a letter that is not all there."""
    words = text.split()
    if words and len(words[-1]) > LONG:
        return text.rstrip("\ufffd")
    return text[: len(text.rstrip()) - len(words[-1])].rstrip() if words else ""
