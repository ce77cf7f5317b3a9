"""Runs a command of the product as a user does, in a process of its own (see tests/command_server.py)."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "tests" / "command_server.py"
_server: subprocess.Popen | None = None


def run_command(
    name: str, *flags: str, cwd: str | Path = ROOT, env: dict[str, str | None] | None = None, timeout: int = 600
) -> subprocess.CompletedProcess:
    """`bin/NAME FLAGS...` in `cwd`; its exit code, stdout and stderr.

    Args:
      name: of a command, or the full name of another module that is run in its place.
      env: further environment variables; None takes one away. Of those that JAX reads while it is imported only
        JAX_COMPILATION_CACHE_DIR may be among them.
    """
    module, flags = name if "." in name else f"vlm_mu_jax.cli.{name}", [str(flag) for flag in flags]
    changed = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    environment = {key: value for key, value in changed.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        streams = {name: os.path.join(folder, name) for name in ("stdout", "stderr")}
        request = {"module": module, "argv": flags, "cwd": str(cwd), "env": environment, "timeout": timeout, **streams}
        code = _ask(request)
        stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in streams.values())
    return subprocess.CompletedProcess([name, *flags], code, stdout, stderr)


def _ask(request: dict) -> int:
    global _server
    if _server is None:
        words = [sys.executable, str(SERVER)]
        _server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.kill)
    _server.stdin.write(json.dumps(request) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    assert answer, "the process that starts commands has ended"
    return int(answer)
