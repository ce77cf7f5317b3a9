"""Metrics of a run: fetched from the device every few steps, checked to be finite, written to JSONL and TensorBoard."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.errors import JobError

EVERY = 10  # steps between fetches; between them the host runs ahead of the device


class Recorder:
    """Collects device scalars per step; `flush` is the only point where the host waits for the device."""

    def __init__(self, workdir: Path | None, start: int) -> None:
        """workdir: where `metrics.jsonl` and TensorBoard events go (None: nowhere). start: updates done before."""
        self._pending: list[tuple[int, dict[str, Any], dict[str, float]]] = []
        self._history: dict[str, list[float]] = {}
        self._clock = time.monotonic()
        self._file = self._events = None
        if workdir is not None and jax.process_index() == 0:
            from tensorboardX import SummaryWriter

            file = workdir / "metrics.jsonl"
            _forget_after(file, start)
            self._file = file.open("a", encoding="utf-8")
            self._events = SummaryWriter(str(workdir), purge_step=start + 1)

    def add(self, step: int, metrics: dict[str, Any], known: dict[str, float]) -> None:
        """Metrics after update `step` (1-based); `known` are host numbers."""
        self._pending.append((step, metrics, known))
        if len(self._pending) >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Fetches what is pending.

        Raises:
          JobError: a metric is not finite; nothing of a step after it was saved.
        """
        if not self._pending:
            return
        fetched = jax.device_get([metrics for _, metrics, _ in self._pending])
        now = time.monotonic()
        seconds = (now - self._clock) / len(self._pending)
        rows = [
            {"step": step, **{k: float(v) for k, v in values.items()}, **known, "seconds": seconds}
            for (step, _, known), values in zip(self._pending, fetched, strict=True)
        ]
        self._pending, self._clock = [], now
        for row in rows:
            _check_finite(row)
            self._write(row)
        if self._file is not None:
            self._file.flush()

    def history(self) -> dict[str, np.ndarray]:
        """Every metric of this process's steps, in order."""
        return {name: np.array(values) for name, values in self._history.items()}

    def _write(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            self._history.setdefault(name, []).append(value)
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(f"train/{name}", value, int(row["step"]))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()


def _check_finite(row: dict[str, float]) -> None:
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        values = ", ".join(f"{name} {row[name]}" for name in bad)
        raise JobError(
            f"training stopped at step {int(row['step'])}: not finite: {values}; "
            "lower optim.learning_rate, set optim.clip, or look for broken weights or pixels"
        )


def _forget_after(file: Path, start: int) -> None:
    """Drops lines of steps that will run again, and a line cut short by a crash."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
