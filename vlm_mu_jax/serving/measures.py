"""What the server counts, for Prometheus."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vlm_mu_jax.serving.engine import Engine
from vlm_mu_jax.serving.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Measures:
    """Counters of one server, in a registry of its own."""

    def __init__(self, engines: Sequence[Engine]):
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "vlm_mu_requests", "Requests by endpoint and HTTP status", ["endpoint", "status"], registry=registry
        )
        self.disconnects = Counter(
            "vlm_mu_disconnects", "Requests whose client went away before the answer was complete", registry=registry
        )
        self.prompt_tokens = Counter("vlm_mu_prompt_tokens", "Tokens of prompts", ["model"], registry=registry)
        self.made_tokens = Counter("vlm_mu_generated_tokens", "Tokens generated", ["model"], registry=registry)
        self.first_token = Histogram(
            "vlm_mu_time_to_first_token_seconds",
            "From the complete request to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "vlm_mu_request_seconds", "Of answered requests", ["model"], buckets=_SECONDS, registry=registry
        )
        live = Gauge("vlm_mu_rows_running", "Answers under way", ["model"], registry=registry)
        waiting = Gauge("vlm_mu_answers_waiting", "Answers that wait for a row", ["model"], registry=registry)
        for engine in engines:
            live.labels(engine.name).set_function(lambda engine=engine: engine.live)
            waiting.labels(engine.name).set_function(lambda engine=engine: engine.waiting)

    @contextlib.contextmanager
    def of(self, exchange: Exchange, model: str) -> Iterator[Callable[[], None]]:
        """Measures a request while it is answered. What it yields is called at every token."""
        begun, first = time.monotonic(), True

        def measured() -> None:
            nonlocal first
            if first:
                self.first_token.labels(model).observe(time.monotonic() - begun)
                first = False

        try:
            yield measured
            self.seconds.labels(model).observe(time.monotonic() - begun)
        finally:
            exchange.cancel()
            self.prompt_tokens.labels(model).inc(exchange.prompt_tokens)
            self.made_tokens.labels(model).inc(exchange.made)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
