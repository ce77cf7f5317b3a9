"""A server in this process, on a free port, for as long as a test needs it."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import uvicorn

from vlm_mu_jax.serving.app import ServerLimits, make_app
from vlm_mu_jax.serving.engine_thread import EngineThread


@contextlib.contextmanager
def running(engines, keys=(), limits=ServerLimits()):  # noqa: B008
    """Yields the server's URL, http://127.0.0.1:PORT."""
    thread = EngineThread(engines)
    thread.start()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(engines, thread, keys, limits), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run, args=([listening],), daemon=True)
    serving.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        serving.join()
        thread.stop()


def post(url, body, kind="application/json", **headers):
    """(status, JSON answer) of a raw request. body: bytes, or what becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, raw, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until(condition, seconds=20.0):
    """Waits for a state of the server; False when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
