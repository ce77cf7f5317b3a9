"""Processes that do one job at a time for bin/bench, asked and answering in JSON lines.

The PyTorch peer is one. Where memory is compared, our side is one too: then both sides are processes that did nothing
else, measured in the same way.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError, JobError

SCRIPT = Path(__file__).resolve().parents[2] / "third_party" / "peers" / "torch_llava.py"


class Worker:
    """A running process that answers jobs.

    Example:
      with Worker(name, command) as worker:
          answer = worker.ask("generate", tokens=8)  # its answer, with "seconds"
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self._name, self._command = name, command

    def __enter__(self) -> "Worker":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait()

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        """Runs one job there and waits for it. JobError when the process died (its own message is on stderr)."""
        try:
            self._process.stdin.write(json.dumps({"do": job, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise JobError(f"{self._name} stopped during {job!r} (exit code {self._process.wait()}); see above")
        return json.loads(line)

    def side(self, job: str, **arguments: Any) -> Any:
        """A side for `timing.compare`: the answer and the seconds the job took there."""

        def run() -> tuple[dict[str, Any], float]:
            answer = self.ask(job, **arguments)
            return answer, answer["seconds"]

        return run


class Peer(Worker):
    """PyTorch transformers: third_party/peers/torch_llava.py, or another script of that folder."""

    def __init__(self, script: Path = SCRIPT) -> None:
        from importlib.util import find_spec

        if find_spec("torch") is None:
            raise InputError("bin/bench compares with PyTorch, which is not installed; run: pip install -e '.[test]'")
        if not script.exists():
            raise InputError(f"{script} is missing; run bin/bench from a checkout of the repository")
        super().__init__("the PyTorch peer", [sys.executable, str(script)])


class Ours(Worker):
    """Our training steps, in a process of their own."""

    def __init__(self) -> None:
        super().__init__("our side", [sys.executable, "-m", "vlm_mu_jax.benchmark.unlearning_worker"])
