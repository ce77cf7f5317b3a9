"""The peer process of bin/bench: third_party/peers/torch_llava.py, asked one job at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vlm_mu_jax.errors import InputError, JobError

SCRIPT = Path(__file__).resolve().parents[2] / "third_party" / "peers" / "torch_llava.py"


class Peer:
    """A running peer; `with Peer() as peer: peer.ask("generate", tokens=8)` -> its answer, "seconds" included."""

    def __init__(self) -> None:
        from importlib.util import find_spec

        if find_spec("torch") is None:
            raise InputError("bin/bench compares with PyTorch, which is not installed; run: pip install -e '.[test]'")
        if not SCRIPT.exists():
            raise InputError(f"{SCRIPT} is missing; run bin/bench from a checkout of the repository")

    def __enter__(self) -> "Peer":
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait()

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        """Runs one job there and waits for it. JobError when the peer died (its own message is on stderr)."""
        try:
            self._process.stdin.write(json.dumps({"do": job, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise JobError(f"the PyTorch peer stopped during {job!r} (exit code {self._process.wait()}); see above")
        return json.loads(line)
