"""Continuous batching: prompts join and leave the running batch of one model between two tokens.

An `Engine` belongs to one served model. Requests hand it `Answering`s from any thread; one thread calls `turn` again
and again, which lets waiting ones join and makes one token of every row. Whatever else is in the batch, a greedy answer
is that of `vlm_mu_jax.answer`.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.model.cpu_weights import for_cpu
from vlm_mu_jax.parallel.activations import even_rows, on_mesh_of
from vlm_mu_jax.serving import programs
from vlm_mu_jax.serving.prompt_runs import PromptRuns, ServedPrompt
from vlm_mu_jax.steering.guard import Guard
from vlm_mu_jax.storage.model_folder import Model

JOINING = 4  # prompts that join in one turn at most, so that rows that are under way do not wait for long
WIDTH = 256  # tokens that a row has room for at first
PATIENCE = 32  # tokens for which the batch keeps more rows than it needs


class BusyError(RuntimeError):
    """So many answers wait that no more are taken."""


@dataclasses.dataclass(frozen=True)
class MadeToken:
    """A token of an answer. end: why it is the last, "stop" or "length"; "" while it is not. top: the likeliest tokens
    at its place with their log-probabilities, if they were asked for."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    end: str = ""


@dataclasses.dataclass(eq=False)
class Answering:
    """One answer that is wanted.

    prompt: what is answered. longest: tokens at most. temperature, top_p, seed: as in `generate`. top: how many of the
    likeliest tokens each token reports. deliver: gets every `MadeToken`, or the exception that ended it, in the
    engine's thread. cancelled: set by whoever wants no more of it.
    """

    prompt: ServedPrompt
    longest: int
    deliver: Callable[[MadeToken | Exception], None]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int = 0
    cancelled: bool = False
    made: int = 0
    last: int = 0

    @property
    def cached(self) -> int:
        """Tokens of this row in the cache: the prompt's and all that were made but the last."""
        return len(self.prompt.ids) + self.made - 1


class Engine:
    """The running batch of one model.

    Attributes:
      name: what requests call the model.
      context: prompt and answer together have this many tokens at most.
      sizes: numbers of rows that the batch may have, multiples of what the model's mesh splits them over.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        guard: Guard | None = None,
        *,
        rows: int = 16,
        waiting: int = 256,
        context: int | None = None,
        prefix_bytes: int = 2**29,
    ):
        """rows: answers made at a time. waiting: answers that may wait for a row. prefix_bytes: memory for the keys and
        values of images that were asked about before."""
        self.name, self.model, self.guard = name, model, guard
        self.context = min(context or model.config.text.max_positions, model.config.text.max_positions)
        self._params = for_cpu(model.params)
        self._runs = PromptRuns(model, guard, prefix_bytes)
        self._limit = waiting
        self._waiting: collections.deque[Answering] = collections.deque()
        self.sizes = sorted({even_rows(model.params, size) for size in sizes(rows)})
        self._rows: list[Answering | None] = []
        self._running: programs.Running | None = None
        self._too_many = 0  # tokens since fewer rows would do
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def live(self) -> int:
        """Rows that are under way."""
        return sum(row is not None for row in self._rows)

    def submit(self, answerings: Sequence[Answering]) -> None:
        """Queues the answers of one request. Raises BusyError when they find no place."""
        with self._lock:
            if len(self._waiting) + len(answerings) > self._limit:
                raise BusyError(f"{len(self._waiting)} answers wait for {self.name}; try again later")
            self._waiting.extend(answerings)

    def turn(self) -> bool:
        """Lets waiting answers join and makes one token of every row. False when there was nothing to do.

        A failure ends all answers that are under way, each with the exception, and is raised again.
        """
        try:
            with on_mesh_of(self.model.params):
                return self._turn()
        except Exception as error:
            for row in self._rows:
                if row is not None:
                    row.deliver(error)
            self._clear()  # the batch's memory may have been given away
            raise

    def _clear(self) -> None:
        self._rows, self._running = [], None

    def _turn(self) -> bool:
        for i, row in enumerate(self._rows):
            if row is not None and row.cancelled:
                self._rows[i] = None
        joined = self._join()
        if self.live:
            self._step()
            return True
        if not joined:
            self._clear()
        return joined

    def _next(self) -> Answering | None:
        with self._lock:
            while self._waiting:
                first = self._waiting.popleft()
                if not first.cancelled:
                    return first
        return None

    def _join(self) -> bool:
        """Runs the prompts of waiting answers and gives them a row; the first token comes with it."""
        wanted = self.live + self.waiting
        if len(self._rows) < self._size(wanted):
            self._resize(self._size(wanted))
        free, joined = [i for i, row in enumerate(self._rows) if row is None], False
        for i in free[:JOINING]:
            answering = self._next()
            if answering is None:
                break
            joined = True
            try:
                begun = self._runs.begin(answering.prompt)
                chosen = programs.choose(begun.logits_1V, _sampling([answering]), self.model.config)
            except Exception as error:  # the rows that are under way have nothing to do with it
                answering.deliver(error)
                continue
            self._rows[i] = answering
            self._deliver([i], chosen)
            if self._rows[i] is not None:  # the first token was not the last
                self._make_room(sum(part.k.shape[2] for part in begun.parts), begun)
                self._running = programs.join(self._running, begun, np.int32(i))
        if not self.waiting:
            self._runs.forget()
        return joined

    def _size(self, wanted: int) -> int:
        return next((size for size in self.sizes if size >= wanted), self.sizes[-1])

    def _resize(self, size: int) -> None:
        """Gives the batch this many rows; those under way move to the front."""
        live = [i for i, row in enumerate(self._rows) if row is not None]
        self._rows = [self._rows[i] for i in live] + [None] * (size - len(live))
        if self._running is not None:
            picked = np.array(live + [0] * (size - len(live)), np.int32)
            self._running = programs.rearranged(self._running, picked, self._running.width)

    def _make_room(self, tokens: int, begun: programs.Begun | None) -> None:
        """Room for so many tokens in every row. begun: what a batch that does not exist yet is shaped like."""
        width = self._running.width if self._running is not None else WIDTH
        while width < tokens:
            width *= 2
        if self._running is None:
            self._running = programs.empty(begun, len(self._rows), width)
        elif width > self._running.width:
            self._running = programs.rearranged(self._running, np.arange(len(self._rows), dtype=np.int32), width)

    def _step(self) -> None:
        self._shrink()
        live = [i for i, row in enumerate(self._rows) if row is not None]
        self._make_room(1 + max(self._rows[i].cached for i in live), None)
        tokens_B, lengths_B = (np.zeros(len(self._rows), np.int32) for _ in range(2))
        for i in live:
            tokens_B[i], lengths_B[i] = self._rows[i].last, self._rows[i].cached
        self._running, chosen = programs.step(
            self._params, self._running, tokens_B, lengths_B, _sampling(self._rows), self.model.config
        )
        self._deliver(live, chosen)

    def _shrink(self) -> None:
        fewer = self._size(self.live + self.waiting)
        self._too_many = self._too_many + 1 if fewer < len(self._rows) else 0
        if self._too_many > PATIENCE:
            self._too_many = 0
            self._resize(fewer)

    def _deliver(self, live: Sequence[int], chosen: programs.NextTokens) -> None:
        """Hands out the tokens of these rows, or of the one row that has just begun, and frees the rows that end."""
        values = [np.asarray(x) for x in (chosen.tokens_B, chosen.logprobs_B, chosen.top_BK, chosen.top_logprobs_BK)]
        for i in live:
            row, at = self._rows[i], i if len(values[0]) > 1 else 0
            token, logprob, top, top_logprobs = (x[at] for x in values)
            row.last, row.made = int(token), row.made + 1
            end = "length" if row.made >= row.longest else ""
            end = "stop" if row.last in self.model.config.eos_ids else end
            likeliest = zip(top[: row.top].tolist(), top_logprobs[: row.top].tolist(), strict=True)
            if end:
                self._rows[i] = None
            row.deliver(MadeToken(row.last, float(logprob), tuple(likeliest), end))


def sizes(rows: int) -> list[int]:
    """Numbers of rows that a batch of at most `rows` may have: few, because each needs a compiled program."""
    found = [1]
    while found[-1] < rows:
        found.append(min(rows, 4 * found[-1]))
    return found


def _sampling(rows: Sequence[Answering | None]) -> programs.RowSampling:
    """How every row samples; empty ones greedily."""

    def of(name: str, default: Any, dtype: Any) -> np.ndarray:
        return np.array([default if row is None else getattr(row, name) for row in rows], dtype)

    return programs.RowSampling(
        of("temperature", 0, np.float32),
        of("top_p", 1, np.float32),
        of("seed", 0, np.int32),
        of("made", 0, np.int32),
        jnp.asarray(any(row is not None and row.top for row in rows)),
    )
