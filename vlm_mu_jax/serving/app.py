"""The server's endpoints: an ASGI application over the engines of its models."""

import asyncio
import dataclasses
import functools
import hmac
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.serving import replies, requests
from vlm_mu_jax.serving.conversations import chat_prompt, text_prompt
from vlm_mu_jax.serving.engine import BusyError, Engine
from vlm_mu_jax.serving.engine_thread import EngineThread
from vlm_mu_jax.serving.exchange import ClientGoneError, Exchange, while_connected
from vlm_mu_jax.serving.measures import CONTENT_TYPE, Measures
from vlm_mu_jax.serving.pictures import PictureLimits
from vlm_mu_jax.serving.requests import RequestError, Wish
from vlm_mu_jax.serving.streaming import EventStream

READERS = 2  # requests whose images and texts are prepared at a time
BODY_SECONDS = 60  # a body that takes longer to arrive is given up


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """What the server takes.

    body_bytes: of one request. open_requests: requests at a time, before more are answered 429. pictures: see there.
    """

    body_bytes: int = 32_000_000
    open_requests: int = 512
    pictures: PictureLimits = PictureLimits()


def make_app(
    engines: Sequence[Engine],
    thread: EngineThread,
    keys: Sequence[str] = (),
    limits: ServerLimits = ServerLimits(),
) -> Starlette:
    """The application.

    Args:
      engines: one a served model, in the order in which they are listed.
      thread: runs them; it is started already.
      keys: API keys, any of which a request must bring as a bearer token. None are asked for without.
    """
    server = _Server(engines, thread, keys, limits)
    at = functools.partial(Route, methods=["POST"])
    return Starlette(
        routes=[
            at("/v1/chat/completions", server.guarded("chat", server.chat)),
            at("/v1/completions", server.guarded("completions", server.completions)),
            Route("/v1/models", server.guarded("models", server.models)),
            Route("/v1/models/{name:path}", server.guarded("models", server.one_model)),
            Route("/metrics", server.guarded("metrics", server.metrics)),
            Route("/health", server.health),
        ],
        exception_handlers={HTTPException: _http_problem},
    )


async def _http_problem(_: Request, error: HTTPException) -> Response:
    return JSONResponse(replies.error_body(str(error.detail), "invalid_request_error"), error.status_code)


class _Server:
    def __init__(self, engines: Sequence[Engine], thread: EngineThread, keys: Sequence[str], limits: ServerLimits):
        self.engines = {engine.name: engine for engine in engines}
        self.thread, self.limits, self.since = thread, limits, int(time.time())
        self.keys = [key.encode() for key in keys]
        self.texts = {engine.name: replies.TokenTexts(engine.model.processor) for engine in engines}
        self.measures = Measures(engines)
        self.open = 0
        self.readers = asyncio.Semaphore(READERS)

    def guarded(self, name: str, handler: Callable[[Request], Awaitable[Response]]) -> Callable:
        """The handler behind the key check, with every failure as an error of OpenAI's shape."""

        async def handle(request: Request) -> Response:
            try:
                self._check_key(request)
                response = await handler(request)
            except Exception as error:
                response = self._problem(error)
            self.measures.requests.labels(name, str(response.status_code)).inc()
            return response

        return handle

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip().encode()
        if self.keys and not any(hmac.compare_digest(given, key) for key in self.keys):
            raise RequestError("a valid API key is needed", status=401, code="invalid_api_key")

    def _problem(self, error: Exception) -> Response:
        if isinstance(error, ClientGoneError | ClientDisconnect):
            self.measures.disconnects.inc()
            return Response(status_code=499)  # nobody reads it
        if isinstance(error, RequestError):
            body = replies.error_body(error.message, "invalid_request_error", error.param, error.code)
            return JSONResponse(body, error.status)
        if isinstance(error, InputError):
            return JSONResponse(replies.error_body(_encodable(error), "invalid_request_error"), 400)
        if isinstance(error, BusyError):
            body = replies.error_body(str(error), "rate_limit_error", code="rate_limit_exceeded")
            return JSONResponse(body, 429, {"Retry-After": "1"})
        traceback.print_exception(error)
        return JSONResponse(replies.error_body("the server failed on this request", "server_error"), 500)

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, requests.chat_wish, self._chat_prompts, chat=True)

    async def completions(self, request: Request) -> Response:
        return await self._complete(request, requests.completion_wish, self._text_prompts, chat=False)

    def _chat_prompts(self, body: dict[str, Any], engine: Engine) -> list:
        return [chat_prompt(body.get("messages"), engine.model, self.limits.pictures)]

    def _text_prompts(self, body: dict[str, Any], engine: Engine) -> list:
        return [text_prompt(given, engine.model) for given in requests.completion_prompts(body)]

    async def _complete(
        self, request: Request, read: Callable[[dict], Wish], prompts_of: Callable[[dict, Engine], list], chat: bool
    ) -> Response:
        if self.open >= self.limits.open_requests:
            raise BusyError("the server has too many requests open; try again later")
        self.open += 1
        streaming = False
        try:
            raw = await _body(request, self.limits.body_bytes)

            def prepare() -> tuple[Wish, Engine, list]:
                body = _parsed(raw)
                wish = read(body)
                engine = self._engine(wish.model)
                return wish, engine, prompts_of(body, engine)

            async with self.readers:
                wish, engine, prompts = await asyncio.to_thread(prepare)
            exchange = Exchange(engine, prompts, wish, self.thread.wake)
            exchange.submit()
            reply = replies.ReplyFrame(engine.name, chat, self.texts[engine.name])
            if wish.stream:
                streaming = True
                return EventStream(exchange, reply, wish, self.measures, self._closed)
            return JSONResponse(await while_connected(self._whole(exchange, reply, wish), request.receive))
        finally:
            self.open -= not streaming

    def _closed(self) -> None:
        self.open -= 1

    async def _whole(self, exchange: Exchange, reply: replies.ReplyFrame, wish: Wish) -> dict[str, Any]:
        """All choices of a request at once."""
        tokens, ends = [[] for _ in exchange.texts], {}
        with self.measures.of(exchange, reply.model) as measured:
            async for one in exchange.progress():
                measured()
                if wish.logprobs:
                    tokens[one.index].append(one.token)
                ends[one.index] = one.end
        choices = [
            reply.choice(i, text.text, tokens[i] if wish.logprobs else None, ends[i])
            for i, text in enumerate(exchange.texts)
        ]
        return reply.whole(choices, replies.usage(exchange.prompt_tokens, exchange.made))

    def _engine(self, name: str) -> Engine:
        if not name and len(self.engines) == 1:
            return next(iter(self.engines.values()))
        if name not in self.engines:
            known = ", ".join(self.engines)
            raise RequestError(
                f"there is no model {requests.shown(name)}; this server has {known}", "model", 404, "model_not_found"
            )
        return self.engines[name]

    async def models(self, _: Request) -> Response:
        return JSONResponse(replies.models_body(list(self.engines), self.since))

    async def one_model(self, request: Request) -> Response:
        engine = self._engine(request.path_params["name"])
        return JSONResponse(replies.models_body([engine.name], self.since)["data"][0])

    async def metrics(self, _: Request) -> Response:
        return Response(self.measures.text(), media_type=CONTENT_TYPE)

    async def health(self, _: Request) -> Response:
        alive = self.thread.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)


async def _body(request: Request, most: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a web page may send without being asked is none of it
        raise RequestError("the body must be JSON, with Content-Type: application/json", status=415)
    too_long = RequestError(f"the body has more than {most} bytes", status=413)
    length = request.headers.get("content-length", "")
    if length.isdigit() and len(length) < 20 and int(length) > most:
        raise too_long
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > most:
                    raise too_long
    except TimeoutError:
        raise RequestError("the body took too long to arrive", status=408) from None
    return bytes(raw)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise RequestError("the body is no JSON") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body


def _encodable(error: Exception) -> str:
    return str(error).encode("utf-8", "replace").decode("utf-8")
