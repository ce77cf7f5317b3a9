"""Runs the product's commands in processes of their own that start warm.

Importing JAX and transformers takes longer than most commands that the tests run. This process imports the libraries
and the product, except its commands, once and then forks for every command: each still has its own arguments,
environment, streams and exit code, and starts with no backend and no flag. `tests/command.py` talks to it.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

LIBRARIES = (
    "absl.flags",
    "flax.struct",
    "grain.python",
    "jax.experimental.multihost_utils",
    "matplotlib.figure",
    "ml_collections.config_flags",
    "optax",
    "orbax.checkpoint",
    "PIL.Image",
    "rich.progress",
    "safetensors.numpy",
    "scipy.stats",
    "statsmodels.stats.contingency_tables",
    "statsmodels.stats.proportion",
    "tensorstore",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.image_processing_auto",
)


def serve() -> None:
    """Reads one JSON request a line and answers in one line: {"start": what `run` takes} with the process id of a fork
    that becomes it, {"wait": process id} with its exit code, {"poll": process id} with that or null while it runs."""
    warm()
    for line in sys.stdin:
        ((what, about),) = json.loads(line).items()
        if what == "start":
            answer = os.fork()
            if answer == 0:
                return run(about)
        else:
            found, status = os.waitpid(about, os.WNOHANG if what == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if found else None
        print(json.dumps(answer), flush=True)


def warm() -> None:
    """Imports what every command of this process will share."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    importlib.import_module("vlm_mu_jax.absent").import_transformers_without_torch()  # as the commands do
    for name in (*LIBRARIES, *product()):
        importlib.import_module(name)
    gc.freeze()  # what is shared with every child stays shared
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")  # no backend has been started here


def product() -> Iterator[str]:
    """The product's modules that define no flags."""
    package = importlib.import_module("vlm_mu_jax")
    for module in pkgutil.walk_packages(package.__path__, "vlm_mu_jax."):
        if not module.name.startswith("vlm_mu_jax.cli"):
            yield module.name


def fork(words: Sequence[str], cwd: Path, streams: Path, mark: str = "", timeout: int = 600) -> int:
    """Starts `bin/WORDS` in a fork of this process, which must be `warm`; returns its process id.

    Args:
      streams: folder of its stdout and stderr, files of these names with `mark` behind them.
      timeout: seconds after which an alarm ends it.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        paths = {name: str(streams / f"{name}{mark}") for name in ("stdout", "stderr")}
        request = {"module": f"vlm_mu_jax.cli.{words[0]}", "argv": [*words[1:]], "cwd": str(cwd), "timeout": timeout}
        run({**request, "env": dict(os.environ), **paths})
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request: dict) -> None:
    """Becomes the command; leaves as it does."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(path, flags), descriptor)
    signal.alarm(request["timeout"])
    sys.argv[1:] = request["argv"]
    sys.path[:] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p] + sys.path
    sys.path.insert(0, request["cwd"])  # as `python -m` does
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    sys.modules["jax"].config.update("jax_compilation_cache_dir", cache)
    if cache:
        importlib.import_module("tests.shared_programs").share()
    if request["module"].endswith(".py"):
        runpy.run_path(request["module"], run_name="__main__")
    else:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
