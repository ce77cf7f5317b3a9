"""One request on its way: its answers are queued, and what the engine's thread makes of them reaches the event loop."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from vlm_mu_jax.serving.answer_text import AnswerText
from vlm_mu_jax.serving.engine import Answering, Engine, MadeToken
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.serving.requests import RequestError, Wish

DEFAULT_LONGEST = 256  # tokens of an answer where the request names no number, as of bin/generate


class ClientGoneError(Exception):
    """The client has closed the connection."""


@dataclasses.dataclass(frozen=True)
class Progressed:
    """What came of one token. text: new text of the choice, "" for none that can be shown yet. end: the finish reason
    once the choice has one."""

    index: int
    text: str
    token: MadeToken
    end: str | None


class Exchange:
    """The choices of one request.

    Attributes:
      texts: their texts so far.
      prompt_tokens, made: numbers of tokens so far, of all choices together.
    """

    def __init__(self, engine: Engine, prompts: Sequence[ServedPrompt], wish: Wish, wake: Callable[[], None]):
        """wake: tells the engine's thread that there is work. Raises RequestError for a prompt that is too long."""
        self._engine, self._wish, self._wake = engine, wish, wake
        self._made: asyncio.Queue[tuple[int, MadeToken | Exception]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        decode, ends = engine.model.processor.decode, engine.model.config.eos_ids
        self._answerings = [
            self._answering(prompt, k * wish.n + i, wish.seed + i)
            for k, prompt in enumerate(prompts)
            for i in range(wish.n)
        ]
        self.texts = [AnswerText(decode, ends, wish.stop) for _ in self._answerings]
        self.prompt_tokens, self.made = sum(len(prompt.ids) for prompt in prompts), 0

    def _answering(self, prompt: ServedPrompt, index: int, seed: int) -> Answering:
        wish, room = self._wish, self._engine.context - len(prompt.ids)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(prompt.ids)} tokens, and prompt and answer together may have"
                f" {self._engine.context}; shorten it",
                "messages",
                code="context_length_exceeded",
            )

        def deliver(item: MadeToken | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                self._loop.call_soon_threadsafe(self._made.put_nowait, (index, item))

        longest = min(wish.longest or DEFAULT_LONGEST, room)
        seed = (seed + 2**31) % 2**32 - 2**31  # as int32; seeds of any size are taken
        return Answering(prompt, longest, deliver, wish.temperature, wish.top_p, seed, wish.top)

    def submit(self) -> None:
        """Queues the answers. Raises BusyError."""
        self._engine.submit(self._answerings)
        self._wake()

    async def progress(self) -> AsyncIterator[Progressed]:
        """Yields what comes of every token, until all choices have ended. Raises what ended the engine's batch."""
        ended = [False] * len(self._answerings)
        eager = self._wish.stream or bool(self._wish.stop)
        while not all(ended):
            index, item = await self._made.get()
            if isinstance(item, Exception):
                raise item
            if ended[index]:
                continue
            text = self.texts[index]
            text.add(item.id)
            self.made += 1
            new = text.take(last=bool(item.end)) if eager or item.end else ""
            end = "stop" if text.stopped else item.end or None
            if end is not None:
                ended[index] = self._answerings[index].cancelled = True
            yield Progressed(index, new, item, end)

    def cancel(self) -> None:
        """Frees the rows of answers that nobody waits for."""
        for answering in self._answerings:
            answering.cancelled = True
        self._wake()


async def while_connected(work: Awaitable[Any], receive: Callable[[], Awaitable[dict[str, Any]]]) -> Any:
    """The result of `work`. Raises ClientGoneError, with the work cancelled, when the client goes away before.

    receive: the connection's messages after the request's body.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGoneError
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
