"""Commands of the product in forked processes that start warm, with their streams in files."""

import os
import resource
import sys
import traceback
from pathlib import Path

from tests import command_server, conftest  # conftest: the environment of all tests, before JAX reads it

assert conftest


def start(command: str, place: Path, limit: int = 300) -> int:
    """Starts `bin/COMMAND` in the folder `place`; returns its process id.

    Args:
      command: the words after `bin/`.
      limit: seconds after which it is ended by an alarm.

    stdout and stderr go to files of these names beside `place`.
    """
    child = os.fork()
    if child == 0:
        _become(command, place, limit)
    return child


def _become(command: str, place: Path, limit: int) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        name, *argv = command.split()
        streams = {name: str(place.parent / name) for name in ("stdout", "stderr")}
        request = {
            "module": f"vlm_mu_jax.cli.{name}",
            "argv": argv,
            "cwd": str(place),
            "env": {**os.environ, "JAX_PLATFORMS": "cpu"},
        }
        command_server.run({**request, "timeout": limit, **streams})
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
