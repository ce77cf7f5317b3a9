"""Hidden states of prompts: the last token's state after every decoder block, with or without an image in the prompt.

The state is read at the block *output* (after the residual additions), before any steering. The position is the last
prompt token, after the conversation template, where the answer starts. Both are written into every guard folder. An
index that is off by one layer, or a position before the template's closing tokens, gives another direction.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.vlm import Batch, forward
from vlm_mu_jax.parallel.activations import OnMesh, even_rows
from vlm_mu_jax.parallel.distributed import total
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model

LOCATION = "block_output"
POSITION = "last_prompt_token"


def prompt_batches(
    model: Model,
    questions: Sequence[str],
    images: Sequence[Any] | None,
    size: int,
    at: int = -1,
    contexts: Sequence[Context | None] | None = None,
) -> Iterator[tuple[Batch, int]]:
    """Prompts in batches of one shape, so that one compiled program serves them all.

    Args:
      images: per question what `Processor.pixels` makes of its image, a list of several, or None. None: no question
        has an image.
      size: rows of a batch, rounded up to what the model's mesh splits evenly. The last batch is filled up with copies
        of its last row.
      at: the prompts end with this token; -1 is the whole prompt. A token's state does not depend on later tokens, so
        any position of a prompt is the last one of a shorter prompt.
      contexts: the conversation around every question, or None where it stands alone. None: all stand alone.

    Yields:
      (batch, how many of its rows are real).

    Raises:
      InputError: images for a model without vision, or a prompt without a token `at`.
    """
    shown = [images_of_one(image) for image in images or [None] * len(questions)]
    if any(shown) and model.config.vision is None:
        raise InputError(f"{model.folder} is a text-only model; it cannot be asked about images")
    contexts = [None] * len(questions) if contexts is None else contexts
    rows = [model.processor.prompt_ids(*prompt) for prompt in zip(questions, shown, contexts, strict=True)]
    if not -min(map(len, rows)) <= at <= -1:
        raise InputError(f"position {at} is outside a prompt; give -1 (the last token) to -{min(map(len, rows))}")
    rows = [ids[: len(ids) + 1 + at] for ids in rows]
    width = -(-max(map(len, rows)) // 8) * 8
    size = even_rows(model.params, min(size, len(rows)))
    for start in range(0, len(rows), size):
        chosen = [min(start + k, len(rows) - 1) for k in range(size)]
        pixels = [shown[k] for k in chosen]
        yield model.processor.pad([rows[k] for k in chosen], pixels, length=width), min(size, len(rows) - start)


def images_of_one(image: Any) -> list[Any]:
    """The images of one question, which has none (None), one, or a list of several."""
    return [] if image is None else image if isinstance(image, list) else [image]


def last_token_states(
    model: Model,
    questions: Sequence[str],
    images: Sequence[Any] | None = None,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
    label: str = "reading states",
    at: int = -1,
    contexts: Sequence[Context | None] | None = None,
) -> np.ndarray:
    """States of the last prompt token, or of token `at`, after every block: float32 [L, N, D] on the host.

        states_LND = last_token_states(model, ["What is on this sign?"], [model.processor.blank_pixels()])

    In a job of several processes all call this. Each runs every so-many-th batch, and all get all states.

    Args, Raises: as `prompt_batches`.
    """
    steps = -(-len(questions) // even_rows(model.params, min(batch_size, len(questions))))
    batches: Iterable = prompt_batches(model, questions, images, batch_size, at, contexts)
    batches = progress(batches, label, steps) if progress else batches
    states_LND, done = np.zeros((model.config.text.L, len(questions), model.config.text.D), np.float32), 0
    for number, (batch, real) in enumerate(batches):
        if number % jax.process_count() == jax.process_index():
            states_LND[:, done : done + real] = batch_states(model, batch)[:, :real]
        done += real
    return total(states_LND)


def batch_states(model: Model, batch: Batch) -> np.ndarray:
    """States of the last prompt token after every block, for one batch: float32 [L, B, D] on the host."""
    return np.asarray(_taps(model.params, batch, model.config))


@OnMesh
@functools.partial(jax.jit, static_argnames="cfg")
def _taps(params, batch: Batch, cfg) -> jax.Array:
    return forward(params, batch, cfg, tap="last", logits=False).taps
