"""A command of this package in a process of its own, for what runs many of them."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
      code: its exit code.
      seconds: CPU seconds over all cores; wall seconds would also measure what else the machine does.
      memory: the most bytes that it held.
    """

    code: int
    seconds: float
    memory: int


def run(name: str, arguments: Sequence[str], cwd: Path | None = None, quiet: bool = False) -> Done:
    """Runs `bin/NAME` to its end. Its messages go where ours go; `quiet` drops what it prints on stdout.

    Whatever ends this process meanwhile, SIGTERM or an interrupt, ends the command first: a training saves its state.
    Locks that were taken to be inherited stay held for as long as the command runs.
    """
    root = str(Path(__file__).resolve().parents[2])  # where the package lies: `cwd` may be another folder
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", f"vlm_mu_jax.cli.{name}", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL if quiet else None,
        close_fds=False,
    )
    with _ended_with_us(process):
        _, status, usage = os.wait4(process.pid, 0)
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Done(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, memory)


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen) -> Iterator[None]:
    """The block waits for the process. What ends the block early is passed on to the process as SIGTERM."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
