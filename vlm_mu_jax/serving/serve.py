"""Opens the models of a server and runs it."""

import dataclasses
import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vlm_mu_jax.conversion import adapted as adapted_models
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files.paths import resolved
from vlm_mu_jax.serving.app import ServerLimits, make_app
from vlm_mu_jax.serving.engine import Answering, Engine, MadeToken
from vlm_mu_jax.serving.engine_thread import EngineThread
from vlm_mu_jax.serving.prompt_runs import ServedPrompt
from vlm_mu_jax.steering import guard_folder
from vlm_mu_jax.steering.guard import load_guard
from vlm_mu_jax.storage.model_folder import Model, find, load

STOP_SECONDS = 5  # that open requests get to end when the server stops


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """How models are served.

    host, port: where the server listens; port 0 takes a free one.
    rows: answers that each model makes at a time.
    waiting: answers that may wait for a row of each model, before more are refused.
    context: prompt and answer together have this many tokens at most; None = as many as the model has positions.
    allow_other_model: a guard may come from other weights or another template than its model's.
    key_file: file with one API key a line; None asks for none.
    limits: what requests may hold.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    rows: int = 16
    waiting: int = 256
    context: int | None = None
    allow_other_model: bool = False
    key_file: str | None = None
    limits: ServerLimits = ServerLimits()


@dataclasses.dataclass(frozen=True)
class ServedFolders:
    """The folders that a server's models are made of.

    checkpoints: model folders by the names that the models are served under.
    guards: (model, guard folder). Each adds the model "MODEL+GUARD", with the guard's folder as its name. None as the
      model is the only checkpoint.
    adapters: folders of PEFT LoRA adapters by name. Each adds a model of that name, the only checkpoint with the
      adapter merged in. With several checkpoints the name is "MODEL+ADAPTER", and says whose adapter it is.
    """

    checkpoints: Mapping[str, str]
    guards: Sequence[tuple[str | None, str]] = ()
    adapters: Mapping[str, str] = dataclasses.field(default_factory=dict)


def serve(folders: ServedFolders, options: ServeOptions = ServeOptions(), say: Callable[[str], None] = print) -> None:
    """Serves models until the process is told to stop.

    Args:
      say: told what happens until the server listens.

    Raises:
      InputError: a folder that holds no model or guard, two models of one name, or an address that cannot be used.
    """
    import uvicorn

    keys = _keys(options.key_file)
    listening = _listen(options.host, options.port)
    engines = open_engines(folders, options, say)
    thread = EngineThread(engines)
    thread.start()
    for engine in engines:
        say(f"{engine.name}: compiling for batches of {', '.join(map(str, engine.sizes))}")
        warm_up(engine, thread)
    app = make_app(engines, thread, keys, options.limits)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=STOP_SECONDS
    )
    listening.listen()  # who reads the next line may come before the event loop runs
    host, port = listening.getsockname()[:2]
    say(f"serving {', '.join(engine.name for engine in engines)} at http://{_address(host)}:{port}/v1")
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        thread.stop()


def open_engines(folders: ServedFolders, options: ServeOptions, say: Callable[[str], None] = print) -> list[Engine]:
    """The engines of a server's models; see `serve`."""
    adapted = _adapted(folders.adapters, list(folders.checkpoints))
    guarded = [_guarded(*one, [*folders.checkpoints, *adapted]) for one in folders.guards]
    for folder in folders.checkpoints.values():
        find(folder)
    for _, folder in adapted.values():
        adapted_models.check(folder)
    guard_folder.check(*(folder for _, folder in guarded))  # what is missing is told before anything is loaded
    settings = {"rows": options.rows, "waiting": options.waiting, "context": options.context}
    engines: dict[str, Engine] = {}
    for name, model in _models(folders.checkpoints, adapted, say):
        engines[name] = Engine(name, model, **settings)
        for own, given in guarded:
            if own != name:
                continue
            guard = load_guard(given, model, options.allow_other_model)
            full = f"{name}+{folder_name(given)}"
            if full in engines:
                raise InputError(f"two guards of {name} are called {folder_name(given)}; rename one's folder")
            engines[full] = Engine(full, model, guard, **settings)
    return list(engines.values())


def _models(
    folders: Mapping[str, str], adapted: Mapping[str, tuple[str, str]], say: Callable[[str], None]
) -> Iterator[tuple[str, Model]]:
    """Names and models: every checkpoint, and behind it those with its adapters."""
    for name, folder in folders.items():
        say(f"{name}: loading {folder}")
        model = load(folder)
        yield name, model
        for own, (base, adapter) in adapted.items():
            if base == name:
                say(f"{own}: merging {adapter} into {name}")
                yield own, adapted_models.with_adapter(model, adapter)


def warm_up(engine: Engine, thread: EngineThread) -> None:
    """Makes tokens in batches of every size, so that the first requests find their programs compiled.

    Raises JobError when that fails.
    """
    made: queue.Queue[MadeToken | Exception] = queue.Queue()
    ids = tuple(engine.model.processor.prompt_ids("?", 0))
    for size in engine.sizes:
        engine.submit([Answering(ServedPrompt(ids, text_ids=ids), 2, made.put) for _ in range(size)])
        thread.wake()
        ended = 0
        while ended < size:
            token = made.get()
            if isinstance(token, Exception):
                raise JobError(f"{engine.name} makes no token: {token}")
            ended += bool(token.end)


def _adapted(given: Mapping[str, str], models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> (model, folder) of every `--adapter`."""
    found: dict[str, tuple[str, str]] = {}
    for name, folder in given.items():
        base = models[0] if len(models) == 1 else name.rpartition("+")[0]
        if base not in models:
            whose = f"--adapter=MODEL+NAME={folder}, of {', '.join(models)}"
            raise InputError(f"--adapter={folder}: whose adapter is it? write {whose}")
        if name in models:
            raise InputError(f"--adapter={folder}: a model is called {name!r} already; write --adapter=NAME={folder}")
        found[name] = base, folder
    return found


def _guarded(name: str | None, folder: str, models: Sequence[str]) -> tuple[str, str]:
    """(model, folder) of one `--guard`."""
    name = models[0] if name is None and len(models) == 1 else name
    if name not in models:
        raise InputError(f"--guard={folder}: whose guard is it? write --guard=MODEL={folder}, of {', '.join(models)}")
    return name, folder


def folder_name(folder: str) -> str:
    """How the model, guard or adapter in a folder is called without a name of its own."""
    path = resolved(folder)
    return path.parent.name if path.name in ("model", "adapter") else path.name


def _keys(path: str | None) -> list[str]:
    if path is None:
        return []
    lines = Path(resolved(path)).read_text(encoding="utf-8").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path}: holds no API key; write one a line")
    return keys


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound before any model is loaded, so that a port in use is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
    except OSError as error:
        raise InputError(f"--host={host} --port={port}: {error.strerror or error}; choose another") from None
    return one


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
