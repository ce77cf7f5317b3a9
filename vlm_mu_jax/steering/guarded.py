"""Answers of a model under its guard: batches, first pass where the gate needs one, generation, decoding."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.data.prompts import bucket
from vlm_mu_jax.model.decoder import Steer
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.llava import Batch, forward
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.states import Progress, batch_states, prompt_batches

PerBatch = Callable[..., Steer]  # (questions, images per question or None)


@dataclasses.dataclass(frozen=True)
class Answer:
    """text: the decoded answer. tokens: how many were generated. gate: share of the guard's layers that acted,
    None without a guard."""

    text: str
    tokens: int
    gate: float | None


def steering(model, guard: Guard) -> Steer | PerBatch:
    """What steers `model`: one `Steer` for every batch, or `per_batch` where the gate needs a first pass."""
    return per_batch(model, guard) if guard.settings.needs_first_pass else guard.steer()


def per_batch(model, guard: Guard) -> PerBatch:
    """(questions, images) -> `Steer` of that batch, for a gate or a component that is known from a first pass.

    Runs the unsteered first pass the guard asks for, on the prompts as they are or on their text alone. images: pixel
    arrays HWC per question, as in `Processor.pad`, or None. Widths are bucketed, so that few programs are compiled.
    """

    def _per_batch(questions: Sequence[str], images: Sequence[Sequence[np.ndarray]] | None = None) -> Steer:
        if images is None or guard.settings.first_pass_reads_text:
            images = [[]] * len(questions)
        rows = [model.processor.prompt_ids(q, i) for q, i in zip(questions, images, strict=True)]
        batch = model.processor.pad(rows, images, length=bucket(max(map(len, rows))))
        return guard.steer(batch_states(model, batch))

    return _per_batch


def answer(
    model,
    questions: Sequence[str],
    images: Sequence[Any] | None = None,
    *,
    guard: Guard | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Progress | None = None,
    label: str = "answering",
) -> list[Answer]:
    """Greedy answers to `questions`, each with its pixels HWC (or None), steered by `guard` if there is one."""
    steps = -(-len(questions) // min(batch_size, len(questions)))
    batches: Iterable = _steered(model, questions, images, guard, batch_size)
    answers: list[Answer] = []
    for batch, real, steer in progress(batches, label, steps) if progress else batches:
        made = generate(model.params, batch, model.config, max_new_tokens=max_new_tokens, steer=steer)
        answers += _decode(model, made, real, guard)
    return answers


def first_token_logprobs(
    model,
    questions: Sequence[str],
    images: Sequence[Any] | None = None,
    *,
    guard: Guard | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Log-probabilities [N, V] of the answer's first token, steered by `guard` if there is one."""
    found = []
    for batch, real, steer in _steered(model, questions, images, guard, batch_size):
        found.append(np.asarray(_first_token(model.params, batch, model.config, steer))[:real])
    return np.concatenate(found)


def divergence(base_NV: np.ndarray, guarded_NV: np.ndarray) -> float:
    """Mean over prompts of KL(base || guarded), nats, from log-probabilities.

    Source: refusal_direction bounds it on harmless prompts by 0.1 when it chooses a direction.
    """
    return float((np.exp(base_NV) * (base_NV - guarded_NV)).sum(-1).mean())


@functools.partial(jax.jit, static_argnames="cfg")
def _first_token(params, batch: Batch, cfg, steer: Steer | None) -> jax.Array:
    logits_B1V = forward(params, batch, cfg, steer=steer, last_only=True).logits_BTV
    return jax.nn.log_softmax(logits_B1V[:, 0].astype(jnp.float32))


def _steered(
    model, questions: Sequence[str], images: Sequence[Any] | None, guard: Guard | None, batch_size: int
) -> Iterator[tuple[Batch, int, Steer | None]]:
    """(batch, real rows, what steers it)."""
    images = [None] * len(questions) if images is None else list(images)
    steer_of, done = None if guard is None else steering(model, guard), 0
    for batch, real in prompt_batches(model, questions, images, batch_size):
        steer = steer_of
        if callable(steer_of):
            rows = [min(done + k, len(questions) - 1) for k in range(len(batch.lengths_B))]
            steer = steer_of([questions[k] for k in rows], [[] if images[k] is None else [images[k]] for k in rows])
        done += real
        yield batch, real, steer


def _decode(model, made, real: int, guard: Guard | None) -> list[Answer]:
    tokens_BG, lengths_B = np.asarray(made.tokens_BG), np.asarray(made.lengths_B)
    gate_B = None
    if guard is not None:
        gate_B = np.asarray(made.gate_LB)[list(guard.settings.layers)].mean(0)
    eos = set(model.config.eos_ids)
    answers = []
    for row in range(real):
        ids = [int(token) for token in tokens_BG[row, : lengths_B[row]] if int(token) not in eos]
        answers.append(
            Answer(
                model.processor.decode(ids).strip(), int(lengths_B[row]), None if gate_B is None else float(gate_B[row])
            )
        )
    return answers
