"""Answers of a guarded model, and how likely it finds given ones: the measurements that selection stands on."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.data.rendering import Context
from vlm_mu_jax.model.cache import without_images
from vlm_mu_jax.model.generate import can_share, generate, marked
from vlm_mu_jax.model.steer import Steer, hides_image, while_decoding
from vlm_mu_jax.model.vlm import Batch, forward
from vlm_mu_jax.parallel.activations import OnMesh, even_rows
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.hidden_states import images_of_one, prompt_batches
from vlm_mu_jax.steering.shapes import check_shapes
from vlm_mu_jax.storage.model_folder import Model


class Asked(NamedTuple):
    """Questions with what they are asked with.

    Attributes:
      images: pixels HWC, a list of several, or None, per question. None: no question has an image.
      contexts: the conversation around every question, or None where it stands alone. None: all stand alone.
    """

    questions: Sequence[str]
    images: Sequence[Any] | None = None
    contexts: Sequence[Context | None] | None = None


@dataclasses.dataclass(frozen=True)
class GuardedAnswer:
    """One answer.

    Attributes:
      text: decoded, without the end token.
      tokens: how many were generated.
      gate: share of the guard's layers that acted. None without a guard.
    """

    text: str
    tokens: int
    gate: float | None


def answer(
    model: Model,
    asked: Asked,
    *,
    guard: Guard | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Progress | None = None,
    label: str = "answering",
) -> list[GuardedAnswer]:
    """Greedy answers.

        answer(model, Asked(["What is on this sign?"], [model.processor.blank_pixels()]), guard=guard)[0].text

    Where all prompts of a batch begin alike up to the end of their image (a blank one), that beginning runs once.

    Args:
      guard: steers the answers. None: the model as it is.
      max_new_tokens: longest answer, in tokens.
      batch_size: prompts run at a time.

    Raises:
      InputError: an image for a model without vision.
    """
    steps = -(-len(asked.questions) // even_rows(model.params, min(batch_size, len(asked.questions))))
    batches: Iterable = _steered(model, asked, guard, batch_size)
    answers: list[GuardedAnswer] = []
    for batch, real, steer in progress(batches, label, steps) if progress else batches:
        prefix, batch = _begun(batch, model.config) if can_share(model.config, steer) else (None, batch)
        made = generate(model.params, batch, model.config, max_new_tokens=max_new_tokens, steer=steer, prefix=prefix)
        answers += _decode(model, made, real, guard)
    return answers


def first_token_logprobs(model: Model, asked: Asked, *, guard: Guard | None = None, batch_size: int = 16) -> np.ndarray:
    """Log-probabilities of the first token of every answer, float [N, V]. Arguments as in `answer`."""
    found = []
    for batch, real, steer in _steered(model, asked, guard, batch_size):
        found.append(np.asarray(_first_token(model.params, batch, model.config, steer))[:real])
    return np.concatenate(found)


def answer_nll(
    model: Model, asked: Asked, answers: Sequence[str], *, guard: Guard | None = None, batch_size: int = 16
) -> np.ndarray:
    """Negative log-likelihood of given answers, float [N], in nats per token with the end token included.

    The guard steers as in generation: the prompt first, then the answer with the gates that the prompt has decided. The
    other arguments are those of `answer`.
    """
    words = [context and context.without_images() for context in asked.contexts or [None] * len(answers)]
    examples = [
        model.processor.example(question, given, images=0, context=context)
        for question, given, context in zip(asked.questions, answers, words, strict=True)
    ]
    rows = [list(one.ids[one.answer_start :]) for one in examples]
    width, found = bucket(max(map(len, rows))), []
    for batch, real, steer in _steered(model, asked, guard, batch_size):
        done = sum(map(len, found))
        some = [rows[min(done + k, len(rows) - 1)] for k in range(len(batch.lengths_B))]
        continued = model.processor.pad(some, length=width)
        found.append(np.asarray(_nll(model.params, batch, continued, model.config, steer))[:real])
    return np.concatenate(found)


def divergence(base_NV: np.ndarray, guarded_NV: np.ndarray) -> float:
    """Mean over prompts of KL(base || guarded), in nats, from log-probabilities.

    Source: refusal_direction bounds it on harmless prompts by 0.1 when it chooses a direction.
    """
    check_shapes(base_NV=base_NV, guarded_NV=guarded_NV)
    return float((np.exp(base_NV) * (base_NV - guarded_NV)).sum(-1).mean())


@OnMesh
@functools.partial(jax.jit, static_argnames="cfg")
def _first_token(params, batch: Batch, cfg, steer: Steer | None) -> jax.Array:
    logits_B1V = forward(params, batch, cfg, steer=steer, last_only=True).logits_BTV
    return jax.nn.log_softmax(logits_B1V[:, 0].astype(jnp.float32))


@OnMesh
@functools.partial(jax.jit, static_argnames="cfg")
def _nll(params, batch: Batch, answers: Batch, cfg, steer: Steer | None) -> jax.Array:
    """Mean negative log-likelihood of each row's answer after its prompt, [B]."""
    prompt = forward(params, batch, cfg, steer=steer, keep_cache=True, last_only=True)
    past = (marked(prompt.cache, batch, cfg, steer),)
    rest = forward(
        params,
        answers,
        cfg,
        past=without_images(past, prompt.gate_LB) if hides_image(steer) else past,
        offset_B=batch.lengths_B,
        steer=while_decoding(steer, prompt.gate_LB),
    )
    logits_BAV = jnp.concatenate([prompt.logits_BTV, rest.logits_BTV[:, :-1]], axis=1).astype(jnp.float32)
    logprobs_BA = jnp.take_along_axis(jax.nn.log_softmax(logits_BAV), answers.tokens_BT[:, :, None], axis=2)[:, :, 0]
    real_BA = jnp.arange(logprobs_BA.shape[1])[None] < answers.lengths_B[:, None]
    return -jnp.where(real_BA, logprobs_BA, 0.0).sum(1) / answers.lengths_B


def _steered(
    model: Model, asked: Asked, guard: Guard | None, batch_size: int
) -> Iterator[tuple[Batch, int, Steer | None]]:
    """Yields (batch, how many of its rows are real, what steers it)."""
    questions, nothing = asked.questions, [None] * len(asked.questions)
    images, contexts = (nothing if some is None else list(some) for some in (asked.images, asked.contexts))
    steer_of, done = None if guard is None else guard.steer(model), 0
    for batch, real in prompt_batches(model, questions, images, batch_size, contexts=contexts):
        steer = steer_of
        if callable(steer_of):
            rows = [min(done + k, len(questions) - 1) for k in range(len(batch.lengths_B))]
            shown = [images_of_one(images[k]) for k in rows]
            steer = steer_of([questions[k] for k in rows], shown, [contexts[k] for k in rows])
        done += real
        yield batch, real, steer


def _begun(batch: Batch, cfg) -> tuple[Batch | None, Batch]:
    """(what all rows begin with, up to the end of their images; what follows in each row).

    (None, batch) where the rows do not begin alike.
    """
    if batch.pixels_BMHWC is None or batch.gather_BQ is not None or len(batch.lengths_B) < 2:
        return None, batch
    tokens_BT, pixels, lengths_B = (np.asarray(x) for x in (batch.tokens_BT, batch.pixels_BMHWC, batch.lengths_B))
    grid = None if batch.grid_BI2 is None else np.asarray(batch.grid_BI2)
    start = int(np.flatnonzero((tokens_BT == cfg.image_token_id).any(0))[-1]) + 1
    alike = (tokens_BT[:, :start] == tokens_BT[:1, :start]).all() and (pixels == pixels[:1]).all()
    alike = alike and (grid is None or (grid == grid[:1]).all())
    if not alike or start >= lengths_B.min():
        return None, batch
    shown = {"pixels_BMHWC": pixels[:1], "grid_BI2": None if grid is None else grid[:1]}
    prefix = Batch(tokens_BT[:1, :start], np.full_like(lengths_B[:1], start), **shown)
    return prefix, Batch(tokens_BT[:, start:], lengths_B - start)


def _decode(model: Model, made, real: int, guard: Guard | None) -> list[GuardedAnswer]:
    tokens_BG, lengths_B = np.asarray(made.tokens_BG), np.asarray(made.lengths_B)
    gate_B = None
    if guard is not None:
        gate_B = np.asarray(made.gate_LB)[list(guard.options.layers)].mean(0)
    eos = set(model.config.eos_ids)
    answers = []
    for row in range(real):
        ids = [int(token) for token in tokens_BG[row, : lengths_B[row]] if int(token) not in eos]
        answers.append(
            GuardedAnswer(
                model.processor.decode(ids).strip(), int(lengths_B[row]), None if gate_B is None else float(gate_B[row])
            )
        )
    return answers
