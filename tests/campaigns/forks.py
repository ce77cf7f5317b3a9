"""Commands of the product in forks of a campaign's process, with their streams beside the folder they run in."""

import os
import tempfile
import time
from pathlib import Path

from tests import command_server, conftest  # conftest: the environment of all tests, before JAX reads it

assert conftest
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    PROGRAMS = tempfile.TemporaryDirectory(prefix="vlm_mu_jax_programs_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name


def start(command: str, place: Path, limit: int = 3600, mark: str = "") -> int:
    """Starts `bin/COMMAND` in the folder `place`, for at most `limit` seconds; returns its process id.

    mark: stands behind the names of its stdout and stderr.
    """
    return command_server.fork(command.split(), place, place.parent, mark, limit)


def has_used(child: int, seconds: float) -> bool:
    """Waits until the process has used so many seconds of processor time; False if it ends before, and is not reaped.

    Moments drawn in this time are spread over the process's work, however busy the machine is.
    """
    clock = (~child << 3) | 2  # Linux: the clock of a process
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left = seconds - time.clock_gettime(clock)
        if left <= 0:
            return True
        time.sleep(max(0.001, left / os.cpu_count()))
    return False
