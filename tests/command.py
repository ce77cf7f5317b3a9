"""Runs commands of the product as a user does, in processes of their own (see tests/command_server.py)."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "tests" / "command_server.py"
_server: subprocess.Popen | None = None
Environment = dict[str, str | None]


class Started:
    """A command that runs: what `subprocess.Popen` is to a program. Its streams end up in files."""

    def __init__(
        self, name: str | Path, *flags: str, cwd: str | Path = ROOT, env: Environment | None = None, timeout: int = 600
    ) -> None:
        """Starts `bin/NAME FLAGS...` in `cwd`.

        Args:
          name: of a command, or the full name of another module or the path of a script that is run in its place.
          env: further environment variables; None takes one away. Of those that JAX reads while it is imported only
            JAX_COMPILATION_CACHE_DIR may be among them, and JAX_PLATFORMS is that of the tests.
          timeout: seconds after which an alarm ends it.
        """
        self.args, self.returncode = [*map(str, (name, *flags))], None
        changed = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._streams = {name: os.path.join(self._folder.name, name) for name in ("stdout", "stderr")}
        request = {
            "module": str(name) if "." in str(name) else f"vlm_mu_jax.cli.{name}",
            "argv": self.args[1:],
            "cwd": str(cwd),
            "env": {key: value for key, value in changed.items() if value is not None},
            "timeout": timeout,
            **self._streams,
        }
        self.pid = _ask({"start": request})

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = _ask({"wait": self.pid})
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """What it wrote to stdout and stderr, once it has ended."""
        self.wait()
        stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in self._streams.values())
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_command(name: str | Path, *flags: str, **how) -> subprocess.CompletedProcess:
    """`bin/NAME FLAGS...` to its end: its exit code, stdout and stderr. Arguments are those of `Started`."""
    started = Started(name, *flags, **how)
    stdout, stderr = started.communicate()
    return subprocess.CompletedProcess(started.args, started.returncode, stdout, stderr)


def _ask(request: dict) -> int | None:
    global _server
    if _server is None:
        words = [sys.executable, str(SERVER)]
        _server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.kill)
    _server.stdin.write(json.dumps(request) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    assert answer, "the process that starts commands has ended"
    return json.loads(answer)
