"""Answers of a model under its guard: batches, first pass where the gate needs one, generation, decoding."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.steering.states import Progress, last_token_states, prompt_batches

GATE_SOURCES = ("self", "text")


@dataclasses.dataclass(frozen=True)
class Answer:
    """text: the decoded answer. tokens: how many were generated. gate: share of the guard's layers that acted,
    None without a guard."""

    text: str
    tokens: int
    gate: float | None


def answer(
    model,
    questions: Sequence[str],
    images: Sequence[Any] | None = None,
    *,
    guard: Guard | None = None,
    gate_source: str = "self",
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Progress | None = None,
    label: str = "answering",
) -> list[Answer]:
    """Greedy answers to `questions`, each with its pixels HWC (or None), steered by `guard` if there is one.

    gate_source: for a gate that decides once per example, the prompt its first pass reads: "self" is the prompt
    with its image, "text" the question alone (the language model supervises the multimodal run).
    """
    images = [None] * len(questions) if images is None else list(images)
    states_LND = _first_pass(model, questions, images, guard, gate_source, batch_size)
    fixed = None if guard is None or states_LND is not None else guard.steer()
    steps = -(-len(questions) // min(batch_size, len(questions)))
    batches: Iterable = prompt_batches(model, questions, images, batch_size)
    answers: list[Answer] = []
    for batch, real in progress(batches, label, steps) if progress else batches:
        steer = fixed
        if states_LND is not None:
            rows = np.minimum(np.arange(len(batch.lengths_B)) + len(answers), len(questions) - 1)
            steer = guard.steer(states_LND[:, rows])
        made = generate(model.params, batch, model.config, max_new_tokens=max_new_tokens, steer=steer)
        answers += _decode(model, made, real, guard)
    return answers


def _first_pass(model, questions, images, guard, gate_source, batch_size) -> np.ndarray | None:
    if guard is None or guard.settings.decide != "example" or guard.settings.gate == "none":
        return None
    return last_token_states(model, questions, None if gate_source == "text" else images, batch_size=batch_size)


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
