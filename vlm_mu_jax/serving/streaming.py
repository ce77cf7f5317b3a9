"""A streamed completion: server-sent events, one a token that shows something."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response

from vlm_mu_jax.serving import replies
from vlm_mu_jax.serving.exchange import ClientGoneError, Exchange, while_connected
from vlm_mu_jax.serving.measures import Measures
from vlm_mu_jax.serving.requests import Wish

STALLED_SECONDS = 60  # a client that reads nothing for so long is given up


class EventStream(Response):
    """Sends the choices of an exchange as they come. The client may read slowly: what waits for it is token ids."""

    media_type = "text/event-stream"

    def __init__(
        self, exchange: Exchange, reply: replies.ReplyFrame, wish: Wish, measures: Measures, closed: Callable[[], None]
    ):
        """closed: called at the end, however the stream ends."""
        super().__init__(headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._exchange, self._reply, self._wish, self._measures, self._closed = exchange, reply, wish, measures, closed

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        try:
            await while_connected(self._send_all(send), receive)
        except (ClientGoneError, TimeoutError, OSError):
            self._measures.disconnects.inc()
        finally:
            self._exchange.cancel()
            self._closed()

    async def _send_all(self, send: Callable) -> None:
        async def put(message: dict[str, Any]) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        await put({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events():
            await put({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
        await put({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        try:
            async for chunk in self._chunks():
                yield json.dumps(chunk, ensure_ascii=False)
        except Exception:
            traceback.print_exc()
            yield json.dumps(replies.error_body("the server failed on this request", "server_error"))

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        exchange, reply, wish = self._exchange, self._reply, self._wish
        held = [[] for _ in exchange.texts]  # tokens whose text is not shown yet
        if reply.chat:
            for i in range(len(exchange.texts)):
                yield reply.chunk([reply.opening(i)])
        with self._measures.of(exchange, reply.model) as measured:
            async for one in exchange.progress():
                measured()
                held[one.index].append(one.token)
                if one.text or one.end:
                    tokens = held[one.index] if wish.logprobs else None
                    yield reply.chunk([reply.piece(one.index, one.text, tokens, one.end)])
                    held[one.index] = []
        if wish.include_usage:
            yield reply.chunk([], replies.usage(exchange.prompt_tokens, exchange.made))
